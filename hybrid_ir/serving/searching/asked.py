"""What a request asks of the release: hits, a filter, a policy of languages, and a prompt of its encoder.

In: a request, checked against its model. Out: what to search for, or a `RequestError` that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from hybrid_ir.config import Serve
from hybrid_ir.encoders import is_task
from hybrid_ir.index import Manifest, Policy
from hybrid_ir.languages import language_code
from hybrid_ir.serving.api import EVERY_OTHER, SearchRequest
from hybrid_ir.serving.checks import RequestError, language_of, shard_query, unknown_key
from hybrid_ir.serving.searching.by_policy import Asked, deepening_of
from hybrid_ir.types import InputError

MOST_STRATA = 1024
"""Of a request, over all of its queries: each is a search of its own."""
V = TypeVar("V")


def asked_of(request: SearchRequest, manifest: Manifest, settings: Serve) -> Asked:
    """What is asked. Raises RequestError for what the index does not have, and for too much."""
    query = shard_query(request, manifest, settings)
    if request.like is not None:  # one more, in case the passage itself is among them
        query = query._replace(k=query.k + 1)
    if request.prefer is None and request.quotas is None and request.group_by is None:
        return Asked(query, None, None)
    bonuses = request.prefer.languages if request.prefer is not None else {}
    quotas = dict(request.quotas or {})
    others = quotas.pop(EVERY_OTHER, None)
    if request.group_by is not None and request.group_by not in manifest.metadata_keys:
        raise unknown_key(request.group_by, "group_by", manifest)
    policy = Policy(
        _by_code(bonuses, manifest, "prefer.languages"), _by_code(quotas, manifest, "quotas"), others, request.group_by
    )
    deepening = None
    if request.group_by is not None:
        deepening = deepening_of(query.k, query.among is not None, settings.max_k)
    asked = Asked(query, policy, deepening)
    texts = len(request.query) if isinstance(request.query, list) else 1
    if (strata := len(asked.strata(manifest.languages))) * texts > MOST_STRATA:
        raise RequestError(
            422,
            "invalid_request",
            f"{'quotas' if quotas or others else 'prefer'}: {strata} searches for each of {texts} queries are more "
            f"than {MOST_STRATA}: send fewer queries at once, or name fewer `languages`",
            "quotas" if quotas or others else "prefer",
        )
    return asked


def prompt_of(role: str, task: str | None, language: str | None, space: dict[str, Any], params: tuple[str, str]) -> str:
    """The name of the prompt that texts are read behind: of the role or the task, in the language where it has one.

    `params` are the fields that named the task and the language. Raises RequestError for a task that the encoder has no
    prompt for, or one of passages, and for what is no language.
    """
    prompts: dict[str, str] = space.get("prompts", {})
    if task is not None:
        tasks = [name for name in prompts if is_task(name)]
        if task not in tasks:
            # Of an encoder with some, an index that is older than prompts of tasks names none, and does not tell.
            said = (
                f"{params[0]}: the index names no prompt {task!r:.80} of its encoder; it names "
                f"{', '.join(tasks) or 'none'}: leave it out, or build the index again with an encoder that has it"
            )
            raise RequestError(422, "unknown_task", said, params[0])
        if role != "query":
            said = f"{params[0]}: a task is of queries; leave it out, or ask for them by input_type"
            raise RequestError(422, "invalid_request", said, params[0])
        role = task
    if language is None:
        return role
    try:
        code = language_code(language)
    except InputError:
        own = [name.removeprefix(f"{role}-") for name in prompts if name.startswith(f"{role}-")]
        said = (
            f"{params[1]}: {language!r:.40} is no language; there are prompts of its own for {', '.join(own) or 'none'}"
        )
        raise RequestError(422, "unknown_language", said, params[1]) from None
    return f"{role}-{code}" if f"{role}-{code}" in prompts else role


def _by_code(values: Mapping[str, V], manifest: Manifest, param: str) -> dict[str, V]:
    """By the codes that the tags mean. Raises RequestError for a language that the index does not have, or has twice
    here."""
    by_code: dict[str, V] = {}
    for tag, value in values.items():
        code = language_of(tag, manifest, param)
        if code in by_code:
            raise RequestError(
                422, "invalid_request", f"{param}: {code!r} stands there twice, as {tag!r:.40} too", param
            )
        by_code[code] = value
    return by_code
