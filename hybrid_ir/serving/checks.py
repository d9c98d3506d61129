"""What a request asks, checked against the index and the limits.

In: a request's body, the manifest, the settings. Out: what shards are asked, or a `RequestError` that names the field.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from hybrid_ir.config import Serve
from hybrid_ir.index import Filter, Manifest, OneOf, ShardQuery, canonical, keys_of, read_filter
from hybrid_ir.languages import language_code
from hybrid_ir.serving.api import (
    MOST_FIELDS,
    MOST_KEYS,
    MOST_LANGUAGES,
    MOST_PASSAGES,
    EmbeddingsRequest,
    SearchRequest,
)
from hybrid_ir.types import OUTER_SPACE, InputError, one_line

M = TypeVar("M", bound=BaseModel)
Decode = Callable[[list[int]], str]
MOST_ITEMS = {
    "languages": MOST_LANGUAGES,
    "quotas": MOST_LANGUAGES,
    "metadata": MOST_KEYS,
    "fields": MOST_FIELDS,
    "passages": MOST_PASSAGES,
}


class RequestError(Exception):
    """A request that is answered with an error: HTTP status, machine-readable type, message, the field at fault."""

    def __init__(
        self, status: int, type: str, message: str, param: str | None = None, body: dict[str, Any] | None = None
    ):
        super().__init__(message)
        self.status, self.type, self.message, self.param = status, type, message, param
        self.body = body or {}


def parse(body: bytes, model: type[M], settings: Serve) -> M:
    """A body's JSON as `model`. Raises RequestError: 400 if it is not JSON, else 422 with the first field at fault.

    Pydantic would gather every error there is, which takes seconds and gigabytes for a list of a million numbers. So
    how many fields and items there are is looked at first, and its lists end at their first error (`fail_fast`).
    """
    try:
        content = from_json(body)
    except ValueError as error:
        raise RequestError(400, "invalid_json", f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise RequestError(422, "invalid_request", "the body must be a JSON object")
    if isinstance(prefer := content.get("prefer"), dict):
        for inner in (prefer, prefer.get("languages")):
            if isinstance(inner, dict) and len(inner) > MOST_LANGUAGES:
                said = f"prefer: at most {MOST_LANGUAGES} values, got {len(inner)}"
                raise RequestError(422, "invalid_request", said, "prefer")
    texts = dict.fromkeys(("input", "documents", "texts"), settings.max_inputs)
    most = {"query": settings.max_queries, **texts, **MOST_ITEMS}
    if isinstance(ids := content.get("input"), list) and ids and type(ids[0]) is int:  # the tokens of one text
        most["input"] = settings.max_characters
    for name, value in content.items():
        if name not in model.model_fields:
            if model.model_config.get("extra") == "ignore":
                continue
            raise RequestError(422, "invalid_request", f"unknown field {name[:80]!r}", name[:80])
        if name in most and isinstance(value, list | dict) and len(value) > most[name]:
            what = "values" if name in MOST_ITEMS else "texts"
            raise RequestError(422, "invalid_request", f"{name}: at most {most[name]} {what}, got {len(value)}", name)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> RequestError:
    """The first thing that is wrong with a body, with the field's name."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # Of a union's branches the last part names the type that was tried, not a field.
    names = [
        str(part)[:80]
        for part in first["loc"]
        if "[" not in str(part) and str(part) not in ("str", "list", "constrained-str")
    ]
    param = ".".join(names) or None
    return RequestError(422, "invalid_request", f"{param or 'the body'}: {first['msg']}", param)


def check_host(host: str, settings: Serve) -> None:
    """Raises RequestError for a Host header that a page of another site may have sent through a browser here.

    Such a page lets its own name point to this machine (DNS rebinding) and reads what a service without keys answers.
    A browser then sends that name. An address is nobody's name, and `localhost` is this machine's. Whom a public
    service without keys (`allow_public`) answers is up to its network.
    """
    if settings.allow_public or not host:
        return
    name = re.sub(r":\d*$", "", host).strip("[]").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if name not in ("localhost", settings.host.lower()):
            raise RequestError(
                403,
                "unknown_host",
                f"without API keys this service answers to localhost or an address, not to the host {host[:80]!r}; "
                "set keys (HYBRID_IR_API_KEYS)",
            ) from None


def carries(authorization: str, keys: Sequence[str]) -> bool:
    """Whether an Authorization header has one of the keys. Every key is compared, each in constant time: how long it
    takes tells nothing."""
    scheme, _, given = authorization.partition(" ")
    right = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys]
    return scheme.lower() == "bearer" and any(right)


def shard_query(request: SearchRequest, manifest: Manifest, settings: Serve) -> ShardQuery:
    """What the request asks of each shard. Raises RequestError for what the index does not have."""
    if request.query is None and request.like is None:
        raise RequestError(422, "invalid_request", "query: it is required, or `like` in its place", "query")
    if request.query is not None and request.like is not None:
        raise RequestError(422, "invalid_request", "like: it takes the place of `query`; send one of the two", "like")
    if request.k > settings.max_k:
        raise RequestError(422, "invalid_request", f"k must be at most {settings.max_k}, got {request.k}", "k")
    k, among = request.k, None
    if request.offset is not None:
        k, among = request.offset + request.k, settings.max_k
        if k > among:
            said = f"offset + k must be at most {among}, got {request.offset} + {request.k}"
            raise RequestError(422, "invalid_request", said, "offset")
    languages = None
    if request.languages is not None:
        languages = tuple(sorted({language_of(tag, manifest, "languages") for tag in request.languages}))
    return ShardQuery(k, languages, _filter_of(request, manifest), among)


def _filter_of(request: SearchRequest, manifest: Manifest) -> Filter | None:
    """`metadata` and `filter` as one filter. Raises RequestError for a wrong one, and for a key that no passage has."""
    equal = tuple(OneOf(key, (canonical(value),)) for key, value in sorted((request.metadata or {}).items()))
    where = Filter(must=equal) if equal else None
    if request.filter is not None:
        try:
            asked = read_filter(request.filter)
        except InputError as error:
            raise RequestError(422, "invalid_filter", str(error), "filter") from None
        where = asked if where is None else Filter(must=(*equal, asked))
    for key in keys_of(where) if where is not None else ():
        if key not in manifest.metadata_keys:
            raise unknown_key(key, "metadata" if key in (request.metadata or ()) else "filter", manifest)
    return where


def unknown_key(key: str, param: str, manifest: Manifest) -> RequestError:
    """What is said of a metadata key that no passage has; `param` is the field that names it."""
    there = ", ".join(manifest.metadata_keys) or "none"
    return RequestError(422, "unknown_metadata", f"no passage has metadata {key!r:.80}; keys: {there}", param)


def check_fields(fields: Sequence[str], manifest: Manifest) -> None:
    """Raises RequestError for a field that no hit has."""
    known = ("text", "language", "metadata", *(f"metadata.{key}" for key in manifest.metadata_keys))
    for name in fields:
        if name not in known:
            there = ", ".join(known)
            raise RequestError(422, "unknown_field", f"no hit has the field {name!r:.80}; there are {there}", "fields")


def language_of(tag: str, manifest: Manifest, param: str) -> str:
    """The code that a tag means, as the build read it: EN, en-US and eng are `en`. Raises RequestError for a language
    of no passage; `param` is the field that names it."""
    if tag in manifest.languages:
        return tag
    try:
        code = language_code(tag)
    except InputError:
        code = ""
    if code not in manifest.languages:
        raise RequestError(
            422,
            "unknown_language",
            f"no passage is in {tag!r:.40}; there are {' '.join(manifest.languages)}",
            param,
        )
    return code


def check_texts(texts: Sequence[str], param: str, settings: Serve) -> None:
    """Raises RequestError for a text that is empty or too long. `param` is the field they came in."""
    for text in texts:
        if not text.strip(OUTER_SPACE):
            raise RequestError(422, "invalid_request", f"{param} is empty", param)
        if len(text) > settings.max_characters:
            raise RequestError(
                422,
                "invalid_request",
                f"{param} may have {settings.max_characters} characters, got {len(text)}",
                param,
            )


def names_of(space: dict[str, Any], settings: Serve) -> list[str]:
    """What clients may call the served encoder."""
    return [space["id"], *([settings.model_name] if settings.model_name else [])]


def role_of(request: EmbeddingsRequest, space: dict[str, Any], settings: Serve) -> str:
    """`query` or `document`: which prefix the texts get. Raises RequestError for a model or a dimension that is not the
    served encoder's, and for two different roles."""
    asked, names = request.model, names_of(space, settings)
    role = None
    if asked is not None and asked not in names:
        name, _, role = asked.rpartition(":")
        if name not in names or role not in ("query", "passage"):
            raise RequestError(
                404, "model_not_found", f"there is one model here, {' or '.join(names)}, not {asked[:80]!r}", "model"
            )
    if role and request.input_type and role != request.input_type:
        message = f"model asks for {role} and input_type for {request.input_type}: leave one out"
        raise RequestError(422, "invalid_request", message, "input_type")
    shorter = space.get("shorter", [])
    if request.dimensions is not None and request.dimensions not in (space["dimension"], *shorter):
        known = " or ".join(map(str, (space["dimension"], *shorter)))
        why = (
            "the encoder was trained for these" if shorter else "the encoder does not say that it was trained for fewer"
        )
        raise RequestError(
            422,
            "invalid_request",
            f"dimensions must be {known}, got {request.dimensions}: {why}; loss.dimensions trains for more, and "
            "`hybrid-ir encoder shorten` makes an encoder of fewer",
            "dimensions",
        )
    return "query" if (role or request.input_type) == "query" else "document"


def decoder_of(encoding: str | None) -> Decode | None:
    """What reads the ids of a tiktoken encoding back to the text that they were; None for None.

    Clients made for OpenAI's models cut long texts themselves, and send the tokens of another encoder than the one that
    is served. Only who runs the service can know which. Raises InputError where there is no such encoding, or it cannot
    be had.
    """
    if encoding is None:
        return None
    try:
        import tiktoken
    except ImportError:
        raise InputError(
            "serve.token_ids needs the package tiktoken: pip install 'hybrid-ir[tiktoken]', or set it to null"
        ) from None
    if encoding not in tiktoken.list_encoding_names():
        known = ", ".join(tiktoken.list_encoding_names())
        raise InputError(f"serve.token_ids={encoding!r} is no encoding of tiktoken's; there are {known}")
    try:
        return tiktoken.get_encoding(encoding).decode
    except Exception as error:  # of whichever library it downloads by
        raise InputError(
            f"the tokens of {encoding} cannot be had ({one_line(error)}); let this machine reach the network once, or "
            "set TIKTOKEN_CACHE_DIR to a folder that has them"
        ) from None


def texts_of(given: Any, decode: Decode | None) -> list[str]:
    """The texts of an input: one, several, or the token ids of one or of several. Raises RequestError for ids that
    cannot be read."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], str):
        return given
    if decode is None:
        raise RequestError(
            422,
            "token_ids",
            "input holds token ids, and cannot tell of which tokenizer: send texts (LangChain: "
            "OpenAIEmbeddings(check_embedding_ctx_length=False)), or set serve.token_ids to that tokenizer",
            "input",
        )
    rows: Sequence[list[int]] = given if isinstance(given[0], list) else [given]
    try:
        return [decode(row) for row in rows]
    except (KeyError, OverflowError, ValueError):
        raise RequestError(422, "token_ids", "input holds ids that the tokenizer does not have", "input") from None
