"""The HTTP face of the search service: routes, limits, keys, errors in one shape, OpenAPI.

In: a search service. Out: an ASGI app. Requests are read and checked by hand instead of by FastAPI's parameters: its
own path costs more than a search does.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

import hybrid_ir
from hybrid_ir.config import Serve
from hybrid_ir.serving import api
from hybrid_ir.serving.checks import RequestError, carries, check_host, names_of, parse
from hybrid_ir.serving.embedding.routes import add_embedding_routes, error_body
from hybrid_ir.serving.http_document import document_of, documented
from hybrid_ir.serving.reranking.routes import add_rerank_routes
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.serving.writing.routes import PASSAGES, Writer, add_write_routes, id_of_path

HERE = Path(__file__).parent / "pages"
SEARCH = ("/v1/search", "/search")
"""One route under two names. What a request or an answer means under the first stays; the second is that of before."""
OPEN_TO_ALL = ("/", "/docs", "/openapi.json", "/healthz", "/readyz")
DEFECT = RequestError(500, "internal_error", "a defect of the service; its log says more")
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
log = logging.getLogger("ray.serve")


def create_app(
    service: SearchService,
    api_keys: tuple[str, ...] = (),
    writer: Writer | None = None,
    write_keys: tuple[str, ...] = (),
) -> ASGIApp:
    """The ASGI app. With `api_keys`, every route but `OPEN_TO_ALL` asks for one of them, or of `write_keys`. The routes
    that write ask for one of these in any case, and are refused where there are none."""
    app, answers = _create_routes(service, api_keys, writer, write_keys)

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive) if scope["type"] == "http" else None
        if request is not None and not api_keys:
            try:
                check_host(request.headers.get("host", ""), service.settings)
            except RequestError as error:
                return await error_response(error, path=scope["path"])(scope, receive, send)
        # What searches and encodes is called directly: FastAPI's layers cost as much as a search's own Python. Past
        # them, a fifth more searches a second (measured).
        answer = None
        if request is not None:
            path = PASSAGES if scope["path"].startswith(PASSAGES) else scope["path"]
            answer = answers.get((request.method, path))
        if request is None or answer is None:
            return await app(scope, receive, send)
        try:
            response = await answer(request)
        except ClientDisconnect:
            return  # nobody is there to be answered
        except RequestError as error:
            response = error_response(error, path=scope["path"])
        except Exception:  # a defect of ours: FastAPI, which is passed by, would also log it and answer 500
            log.exception("a request failed")
            response = error_response(DEFECT, path=scope["path"])
        await response(scope, receive, send)

    return asgi


def openapi() -> dict[str, Any]:
    """The OpenAPI document that a running service has at /openapi.json."""
    nothing: Any = SimpleNamespace(settings=Serve())
    return _create_routes(nothing, ())[0].openapi()


def _create_routes(
    service: SearchService,
    api_keys: tuple[str, ...],
    writer: Writer | None = None,
    write_keys: tuple[str, ...] = (),
) -> tuple[FastAPI, dict[tuple[str, str], Callable[[Request], Awaitable[Response]]]]:
    """The routes, and the handlers of those that search, read, write and encode, by method and path's beginning."""
    # No redirect from /search/ to /search: its address would be made of the Host header, which the caller chooses.
    app = FastAPI(
        title="Hybrid IR", version=hybrid_ir.__version__, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    page = (HERE / "page.html").read_text(encoding="utf-8")
    created = int(time.time())
    limit = service.settings.max_body_bytes

    async def read(request: Request, model: type[M], check: Callable[[Request], object] | None = None) -> M:
        """The request's body as `model`. Raises RequestError."""
        (check or check_key)(request)
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise RequestError(413, "too_large", f"the body may have {limit} bytes, got {declared}")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise RequestError(413, "too_large", f"the body may have {limit} bytes")
        return parse(bytes(body), model, service.settings)

    def check_key(request: Request) -> None:
        if api_keys and not carries(request.headers.get("authorization", ""), (*api_keys, *write_keys)):
            raise RequestError(401, "unauthorized", "send an API key: Authorization: Bearer KEY")

    @app.exception_handler(RequestError)
    async def request_error(_: Request, error: RequestError) -> Response:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        said = RequestError(error.status_code, "http_error", str(error.detail))
        return error_response(said, dict(error.headers or {}), path=request.scope["path"])

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> Response:
        # Starlette raises it again after this answer, so that it reaches the log with its traceback.
        return error_response(DEFECT)

    async def search(request: Request) -> Response:
        """The passages nearest to each query, best first."""
        wanted = await read(request, api.SearchRequest)
        return _json(await _while_connected(request, service.search(wanted)))

    form = documented(api.SearchResponse, api.SearchRequest, 400, 401, 404, 409, 413, 422, 429, 503, deadline=True)
    for path in SEARCH:
        app.post(path, **form)(search)

    @app.get("/passages/{doc_id:path}", **documented(api.Passage, None, 401, 404, 503, path=id_of_path))
    async def passage(request: Request) -> Response:
        """One passage by its id."""
        check_key(request)
        # FastAPI, which is passed by as a rule, does not find a path with a line's end.
        return _json(await service.passage(request.scope["path"].removeprefix(PASSAGES)))

    written = add_write_routes(app, service.settings, read, _json, (api_keys, write_keys), writer)

    encoded = add_embedding_routes(app, service, read, _json, _while_connected)
    reranked = add_rerank_routes(app, lambda: service.reranking, read, _json, _while_connected)

    def model_infos() -> dict[str, dict[str, Any]]:
        space = service.release.manifest.space
        info = {"object": "model", "created": created, "owned_by": "hybrid-ir"}
        info |= {"dimension": space["dimension"], "max_tokens": space["max_tokens"]}
        return {name: {"id": name, **info} for name in names_of(space, service.settings)}

    @app.get("/v1/models", **documented(api.ModelList, None, 401, 503))
    async def models(request: Request) -> Response:
        """The one encoder that is served, by its space id, and by `serve.model_name`."""
        check_key(request)
        return _json({"object": "list", "data": list(model_infos().values())})

    name_of_path = "name", "The space id, or `serve.model_name`.", "our-e5"

    @app.get("/v1/models/{name:path}", **documented(api.ModelInfo, None, 401, 404, 503, path=name_of_path))
    async def model(request: Request) -> Response:
        """The encoder that is served, by one of its names."""
        check_key(request)
        infos, name = model_infos(), request.path_params["name"]
        if name not in infos:
            message = f"there is one model here, {' or '.join(infos)}, not {name[:80]!r}"
            raise RequestError(404, "model_not_found", message, "model")
        return _json(infos[name])

    @app.get("/stats", **documented(api.Stats, None, 401, 503))
    async def stats(request: Request) -> Response:
        """What is served: index, shards, passages by language, versions."""
        check_key(request)
        return _json(service.stats())

    @app.get("/readyz", **documented(api.Ready, None, unready=True))
    async def readyz() -> Response:
        """200 when the encoder and every shard answer, else 503 with the names of those that do not, or `stopping`."""
        ready = service.ready()
        return _json(ready, 200 if ready["ready"] else 503)

    @app.get("/healthz", **documented(api.Health, None))
    async def healthz() -> Response:
        """200 while the gateway runs, whatever its shards do."""
        return _json({"status": "ok"})

    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256((script.group(1) if script else "").encode()).digest()).decode()
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

    @app.get("/", include_in_schema=False)
    async def root() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        # Rendered here: FastAPI's own page loads its scripts from the network.
        environment = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined, autoescape=True)
        rendered = environment.get_template("docs.html.j2").render(api=app.openapi(), open_to_all=OPEN_TO_ALL)
        return HTMLResponse(
            rendered, headers={**headers, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        )

    app.openapi = lambda: document_of(app)  # type: ignore[method-assign]
    posted = {("POST", path): search for path in SEARCH}
    return app, {**posted, ("GET", PASSAGES): passage, **written, **encoded, **reranked}


async def _while_connected(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """What `answer` gives. Raises ClientDisconnect, and ends `answer`, when the client hangs up before."""
    working = asyncio.create_task(answer)
    # The body has been read, so the next message that the server has is the hang-up.
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(
    content: Any, status: int = 200, headers: dict[str, str] | None = None, media_type: str = "application/json"
) -> Response:
    try:
        body = orjson.dumps(content)
    except TypeError:  # an integer of more than 64 bits: an index that was built before they were refused
        body = json.dumps(content, ensure_ascii=False).encode()
    return Response(body, status, headers, media_type=media_type)


def error_response(
    error: RequestError, headers: dict[str, str] | None = None, retry_after_s: int = 1, path: str = ""
) -> Response:
    """The answer that says so, as `ErrorResponse`, or as the clients of that path read it."""
    headers = dict(headers or {})
    if error.status in (429, 503):
        headers["Retry-After"] = str(retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    problem = api.problem(error.status, error.type, error.message, error.param)
    return _json({**problem, **error_body(path, error), **error.body}, error.status, headers, api.PROBLEM)
