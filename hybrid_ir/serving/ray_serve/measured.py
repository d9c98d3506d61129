"""What every request took and how it ended, for metrics. In: an ASGI app. Out: the same app, observed."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hybrid_ir.serving.batcher import Observe

ROUTES = {"/v1/embeddings": "embeddings", "/v1/models": "models", "/stats": "stats"}
ROUTES |= dict.fromkeys(("/v1/search", "/search"), "search")
ROUTES |= dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), "rerank")
PASSAGES = "/passages/"
"""Routes, and the beginning of those of passages, that have a label of their own. Health checks are left out, and all
else is `other`: paths that callers make up would be labels without end."""
UNMEASURED = ("/healthz", "/readyz")
NO_ANSWER = "499"
"""The status, in nginx's convention, of a request whose client left before it was answered."""


def measured(app: ASGIApp, observe: Observe) -> ASGIApp:
    """`app`, whose answers and errors are observed as `requests` and `request_duration_seconds` by route and code."""

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
            observe("requests", 1, labels)
            observe("request_duration_seconds", time.perf_counter() - begun, labels)

    return asgi
