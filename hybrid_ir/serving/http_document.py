"""The OpenAPI document: what every status, body and field of the HTTP API means.

In: the models of a route's request and answer, its errors. Out: what its decorator must know, and the whole document.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hybrid_ir.serving import api

MEANING = {
    400: "The body is not JSON.",
    401: "No API key, or a wrong one.",
    403: "A service without API keys was asked by a name that is not this machine's; or who asks may not write.",
    404: "There is no such model, no reranker, or no such passage.",
    409: "The cursor is of another version of the index, or of a page that other shards answered. Of a change: nothing "
    "was changed, because the index cannot be written to as it is, or another process writes it.",
    413: "The body is too large.",
    422: "A field is unknown, missing or out of its range.",
    429: "Too many texts are waiting, or the key has sent too many requests; `Retry-After` says when to ask again.",
    500: "A defect of the service; its log says more.",
    503: "A shard or the reranker (policy strict) or the encoder does not answer, or the service is stopping.",
    504: "The deadline passed.",
}

ERRORS = ("/ErrorResponse", "/DeadlineResponse", "/CohereError", "/TeiError")


def documented(
    answer: type[BaseModel],
    body: type[BaseModel] | None,
    *errors: int,
    deadline: bool = False,
    unready: bool = False,
    path: tuple[str, str, str] | None = None,
    error: type[BaseModel] = api.ErrorResponse,
) -> dict[str, Any]:
    """What a route's decorator must know for the OpenAPI document. `path`: name, meaning and example of what the path
    holds. `error`: what its clients read of errors."""
    responses: dict[int | str, dict[str, Any]] = {200: {"model": answer, "description": answer.__doc__}}
    for status in (*errors, 403, 500):
        responses[status] = {"model": error, "description": MEANING[status]}
    if deadline:
        responses[504] = {
            "model": api.DeadlineResponse,
            "description": "The deadline passed; what was found until then.",
        }
    if unready:
        responses[503] = {"model": answer, "description": "Something does not answer."}
    documented: dict[str, Any] = {"responses": responses, "response_model": None}
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        documented["openapi_extra"] = {
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        }
    if path is not None:
        # Not as a parameter of the handler: FastAPI would document a 422 of its own, which nothing answers.
        name, meaning, example = path
        parameter = {"name": name, "in": "path", "required": True, "description": meaning, "example": example}
        documented["openapi_extra"] = {"parameters": [{**parameter, "schema": {"type": "string"}}]}
    return documented


def document_of(app: FastAPI) -> dict[str, Any]:
    """The document of an app's routes; made once, and kept in the app."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, routes=app.routes, description="Search across languages."
        )
        encoded = (api.EmbeddingsRequest, api.CohereEmbedRequest, api.TeiEmbedRequest)
        requests = (api.SearchRequest, *encoded, api.PutRequest, api.RerankRequest, api.RankRequest)
        _, bodies = models_json_schema(
            [(request, "validation") for request in requests],
            ref_template="#/components/schemas/{model}",
        )
        for route in (route for methods in document["paths"].values() for route in methods.values()):
            for answer in route["responses"].values():
                if answer["content"]["application/json"]["schema"].get("$ref", "").endswith(ERRORS):
                    answer["content"] = {api.PROBLEM: answer["content"]["application/json"]}
        document.setdefault("components", {}).setdefault("schemas", {}).update(bodies["$defs"])
        app.openapi_schema = document
    return app.openapi_schema
