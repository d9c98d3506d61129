"""What every request took and how it ended, for metrics and the access log. In: an ASGI app. Out: the same app,
observed."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hybrid_ir.serving.batcher import Observe

ROUTES = {"/v1/embeddings": "embeddings", "/v1/models": "models", "/stats": "stats"}
ROUTES |= dict.fromkeys(("/v1/search", "/search"), "search")
ROUTES |= dict.fromkeys(("/embed", "/v1/embed", "/v2/embed"), "embeddings")
ROUTES |= dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), "rerank")
PASSAGES = "/passages/"
"""Routes, and the beginning of those of passages, that have a label of their own. Health checks are left out, and all
else is `other`: paths that callers make up would be labels without end."""
UNMEASURED = ("/healthz", "/readyz")
NO_ANSWER = "499"
"""The status, in nginx's convention, of a request whose client left before it was answered."""


access = logging.getLogger("ray.serve.access")


def measured(app: ASGIApp, observe: Observe, *, access_log: bool = False) -> ASGIApp:
    """`app`, whose answers and errors are observed as `requests` and `request_duration_seconds` by route and code.
    With `access_log` each is a line of the log too: no path, query or header is in it, since these may hold secrets."""
    if access_log:
        access.setLevel(logging.INFO)  # for this process; its handlers are Serve's, whose own level is WARNING

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNMEASURED:
            return await app(scope, receive, send)
        begun, code = time.perf_counter(), NO_ANSWER

        async def note(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = str(message["status"])
            await send(message)

        try:
            await app(scope, receive, note)
        finally:
            path = scope["path"]
            route = "passages" if path.startswith(PASSAGES) else ROUTES.get(path.rstrip("/"), "other")
            labels = {"route": route, "code": code}
            took_s = time.perf_counter() - begun
            observe("requests", 1, labels)
            observe("request_duration_seconds", took_s, labels)
            if access_log:
                # `endpoint`, since Serve gives every line a `route` of its own.
                said = {"method": scope["method"], "endpoint": route, "status": int(code)}
                said["milliseconds"] = round(took_s * 1000, 2)
                access.info("%(method)s %(endpoint)s %(status)d %(milliseconds)s ms", said, extra=said)

    return asgi
