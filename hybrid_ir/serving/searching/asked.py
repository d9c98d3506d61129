"""What a request asks of the release: hits, a filter, and a policy of languages.

In: a request, checked against its model. Out: what to search for, or a `RequestError` that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from hybrid_ir.config import Serve
from hybrid_ir.index import Manifest, Policy
from hybrid_ir.serving.api import EVERY_OTHER, SearchRequest
from hybrid_ir.serving.checks import RequestError, language_of, shard_query, unknown_key
from hybrid_ir.serving.searching.by_policy import Asked, deepening_of

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
