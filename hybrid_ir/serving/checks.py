"""What a request asks, checked against the index and the limits.

In: a request's model, the manifest, the settings. Out: what shards are asked, or a `RequestError` that names the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybrid_ir.config import Serve
from hybrid_ir.index import Manifest, ShardQuery, canonical
from hybrid_ir.serving.api import EmbeddingsRequest, SearchRequest


class RequestError(Exception):
    """A request that is answered with an error: HTTP status, machine-readable type, message, the field at fault."""

    def __init__(
        self, status: int, type: str, message: str, param: str | None = None, body: dict[str, Any] | None = None
    ):
        super().__init__(message)
        self.status, self.type, self.message, self.param = status, type, message, param
        self.body = body or {}


def shard_query(request: SearchRequest, manifest: Manifest, settings: Serve) -> ShardQuery:
    """What the request asks of each shard. Raises RequestError for what the index does not have."""
    if request.k > settings.max_k:
        raise RequestError(422, "invalid_request", f"k must be at most {settings.max_k}, got {request.k}", "k")
    languages = None if request.languages is None else tuple(sorted(set(request.languages)))
    unknown = [name for name in languages or () if name not in manifest.languages]
    if unknown:
        raise RequestError(
            422,
            "unknown_language",
            f"no passage is in {unknown[0]!r:.40}; there are {' '.join(manifest.languages)}",
            "languages",
        )
    for key in request.metadata or ():
        if key not in manifest.metadata_keys:
            there = ", ".join(manifest.metadata_keys) or "none"
            raise RequestError(
                422, "unknown_metadata", f"no passage has metadata {key!r:.80}; keys: {there}", "metadata"
            )
    metadata = tuple(sorted((key, canonical(value)) for key, value in (request.metadata or {}).items()))
    return ShardQuery(request.k, languages, metadata)


def check_texts(texts: Sequence[str], param: str, settings: Serve) -> None:
    """Raises RequestError for too many texts, or one that is empty or too long. `param` is the field they came in."""
    if len(texts) > settings.max_queries:
        raise RequestError(422, "invalid_request", f"at most {settings.max_queries} texts, got {len(texts)}", param)
    for text in texts:
        if not text.strip():
            raise RequestError(422, "invalid_request", f"{param} is empty", param)
        if len(text) > settings.max_characters:
            raise RequestError(
                422,
                "invalid_request",
                f"{param} may have {settings.max_characters} characters, got {len(text)}",
                param,
            )


def check_model(request: EmbeddingsRequest, space: dict[str, Any]) -> None:
    """Raises RequestError for a model or a dimension that is not the served encoder's."""
    if request.model is not None and request.model != space["id"]:
        raise RequestError(
            404, "model_not_found", f"there is one model here, {space['id']}, not {request.model!r}", "model"
        )
    if request.dimensions is not None and request.dimensions != space["dimension"]:
        raise RequestError(
            422,
            "invalid_request",
            f"dimensions must be {space['dimension']}, got {request.dimensions}",
            "dimensions",
        )
