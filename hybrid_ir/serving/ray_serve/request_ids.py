"""Request ids: which of those that clients send are taken.

In: a request as the server hands it to Ray Serve. Out: the same, without an `X-Request-ID` that is not fit for a log.
Serve does the rest. It makes an id for a request that has none, puts it into the answer, and into each line that is
logged within the request.
"""

from __future__ import annotations

import re

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

HEADER = b"x-request-id"
FIT = re.compile(rb"[!-~]{1,128}")
"""Visible ASCII: a space, a line's end or an escape could make one line of a log look like another."""
CALLBACK = f"{__name__}:middlewares"
"""What RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH must say where Ray starts."""


class RequestIds:
    """What Serve calls first. It takes an id as it comes, and breaks over bytes that are not UTF-8."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = [value for name, value in scope["headers"] if name == HEADER]
            if given and (len(given) > 1 or FIT.fullmatch(given[0]) is None):
                scope["headers"] = [header for header in scope["headers"] if header[0] != HEADER]
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Serve wraps its own HTTP server into these, in every process that has one."""
    return [Middleware(RequestIds)]
