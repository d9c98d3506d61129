"""The routes that encode, in the forms that clients have: OpenAI's, Cohere's, and text-embeddings-inference's.

In: requests. Out: unit vectors in the order of their texts, or a RequestError.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any
from uuid import uuid4

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import Response

from hybrid_ir.encoders import is_task
from hybrid_ir.languages import is_code
from hybrid_ir.serving import api
from hybrid_ir.serving.checks import RequestError
from hybrid_ir.serving.http_document import documented
from hybrid_ir.serving.release import Encoded
from hybrid_ir.serving.search_service import SearchService

COHERE, TEI = ("/v2/embed", "/v1/embed"), "/embed"


def add_embedding_routes(
    app: FastAPI,
    service: SearchService,
    read: Callable[..., Awaitable[Any]],
    answer: Callable[[Any], Response],
    while_connected: Callable[[Request, Coroutine[Any, Any, Any]], Awaitable[Any]],
) -> dict[tuple[str, str], Callable[[Request], Awaitable[Response]]]:
    """The handlers, by method and path. `read` is given the request and the body's model; `while_connected` ends what
    nobody waits for any more."""
    errors = (400, 401, 404, 413, 422, 429, 503, 504)

    @app.post("/v1/embeddings", **documented(api.EmbeddingsResponse, api.EmbeddingsRequest, *errors))
    async def embeddings(request: Request) -> Response:
        """Unit vectors of texts, in the index's space; compatible with OpenAI's client."""
        wanted = await read(request, api.EmbeddingsRequest)
        encoded, space_id = await while_connected(request, service.embed(wanted))
        tokens = int(encoded.tokens.sum())
        rows = _base64(encoded.vectors) if wanted.encoding_format == "base64" else encoded.vectors.tolist()
        return answer(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": i, "embedding": row, "cut": cut}
                    for i, (row, cut) in enumerate(zip(rows, encoded.cut.tolist(), strict=True))
                ],
                "model": wanted.model or space_id,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                "space_id": space_id,
            }
        )

    async def cohere(request: Request) -> Response:
        """Unit vectors of texts, in the index's space, as Cohere's clients ask for them."""
        wanted = await read(request, api.CohereEmbedRequest)
        texts, version = _texts_of_cohere(wanted), request.scope["path"][2]
        longest = service.release.manifest.space["max_tokens"]
        if wanted.max_tokens is not None and wanted.max_tokens < longest:
            said = f"max_tokens: texts are cut at the {longest} tokens that the encoder reads; leave it out"
            raise RequestError(422, "invalid_request", said, "max_tokens")
        asked = api.EmbeddingsRequest(
            input=texts,
            model=wanted.model,
            input_type="query" if wanted.input_type == "search_query" else "passage",
            dimensions=wanted.output_dimension,
        )
        encoded, _ = await while_connected(request, service.embed(asked, "texts"))
        if wanted.truncate == "NONE":
            _refuse_cut(encoded, "texts", "truncate: END cuts it", longest)
        makers = {"float": np.ndarray.tolist, "base64": _base64}
        types = dict.fromkeys(wanted.embedding_types or ["float"])
        by_type = {name: makers[name](encoded.vectors) for name in types}
        bare = version == "1" and wanted.embedding_types is None
        meta: dict[str, Any] = {
            "api_version": {"version": version},
            "billed_units": {"input_tokens": int(encoded.tokens.sum())},
        }
        if encoded.cut.any():
            places = ", ".join(map(str, np.flatnonzero(encoded.cut)))
            meta["warnings"] = [f"longer than the {longest} tokens that the encoder reads, and cut: texts {places}"]
        return answer(
            {
                "response_type": "embeddings_floats" if bare else "embeddings_by_type",
                "id": uuid4().hex,
                "embeddings": by_type["float"] if bare else by_type,
                "texts": texts,
                "meta": meta,
            }
        )

    form = documented(api.CohereEmbedResponse, api.CohereEmbedRequest, *errors, error=api.CohereError)
    for path in COHERE:
        app.post(path, **form)(cohere)

    form = documented(api.Embedding, api.TeiEmbedRequest, *errors, error=api.TeiError)
    form["responses"][200] = {"model": list[list[float]], "description": "A vector for each text, of unit length."}

    @app.post(TEI, **form)
    async def tei(request: Request) -> Response:
        """Unit vectors of texts, in the index's space, as clients of text-embeddings-inference ask for them."""
        wanted = await read(request, api.TeiEmbedRequest)
        prompt = _prompt_named(wanted.prompt_name, service.release.manifest.space.get("prompts", {}))
        if wanted.normalize is False:
            said = "normalize: the index and its encoder have vectors of unit length alone; leave it out"
            raise RequestError(422, "invalid_request", said, "normalize")
        if wanted.truncation_direction is not None and wanted.truncation_direction.lower() != "right":
            said = "truncation_direction: the encoder reads the beginning of a text; leave it out"
            raise RequestError(422, "invalid_request", said, "truncation_direction")
        asked = api.EmbeddingsRequest(input=wanted.inputs, dimensions=wanted.dimensions, **prompt)
        encoded, _ = await while_connected(request, service.embed(asked, "inputs"))
        if wanted.truncate is False:
            longest = service.release.manifest.space["max_tokens"]
            _refuse_cut(encoded, "inputs", "truncate: true cuts it", longest)
        return answer(encoded.vectors.tolist())

    return {
        ("POST", "/v1/embeddings"): embeddings,
        **{("POST", path): cohere for path in COHERE},
        ("POST", TEI): tei,
    }


def error_body(path: str, error: RequestError) -> dict[str, Any]:
    """What an error has besides a problem's fields where a path's clients read another form; nothing elsewhere."""
    if path in COHERE:
        return {"message": error.message}
    if path == TEI:
        kinds = {429: "Overloaded", 500: "Backend", 503: "Unhealthy", 504: "Overloaded"}
        return {"error": error.message, "error_type": kinds.get(error.status, "Validation")}
    return {}


def _texts_of_cohere(wanted: api.CohereEmbedRequest) -> list[str]:
    for name in ("images", "inputs"):
        if getattr(wanted, name) is not None:
            said = f"{name}: texts alone are encoded here; send them as `texts`"
            raise RequestError(422, "invalid_request", said, name)
    if wanted.texts is None:
        raise RequestError(422, "invalid_request", "texts: it is required", "texts")
    return wanted.texts


def _prompt_named(name: str | None, prompts: Mapping[str, str]) -> dict[str, Any]:
    """What an EmbeddingsRequest says of the prompt of this name, of which the index has `prompts` beside query and
    document. Raises RequestError for a name that is none of these."""
    if name is None or name == "passage":
        name = "document"
    names = ["query", "document", *(each for each in prompts if is_task(each) or is_code(each.partition("-")[2]))]
    if name not in names:
        said = f"prompt_name: the index names the encoder's prompts {', '.join(names)}, not {name[:80]!r}"
        raise RequestError(422, "invalid_request", said, "prompt_name")
    if is_task(name):
        return {"input_type": "query", "task": name}
    role, _, language = name.partition("-")
    return {"input_type": "query" if role == "query" else "passage", "language": language or None}


def _refuse_cut(encoded: Encoded, param: str, remedy: str, longest: int) -> None:
    if encoded.cut.any():
        first = int(np.flatnonzero(encoded.cut)[0])
        said = f"{param}: text {first} is longer than the {longest} tokens that the encoder reads; {remedy}"
        raise RequestError(422, "too_long", said, param)


def _base64(vectors: np.ndarray) -> Sequence[str]:
    return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
