"""The door of a gateway: who is in, and that nobody comes in once the service stops.

In: an ASGI app, and whether the service stops. Out: the same app, which is not asked then; and when all have left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from hybrid_ir.serving.checks import RequestError
from hybrid_ir.serving.http_app import OPEN_TO_ALL, error_response

STOPPING = RequestError(503, "stopping", "the service is stopping; ask again, another may answer by then")
LOOK_S, LEAVE_S = 0.02, 0.3
"""How often it looks whether all have left, and how long an answer has from here to its client."""


class Door:
    """How many requests are being answered. `OPEN_TO_ALL` is not counted, and is answered until the end."""

    def __init__(self) -> None:
        self.inside = 0

    def around(self, app: ASGIApp, stopping: Callable[[], bool]) -> ASGIApp:
        """`app`, behind 503 with Retry-After while the service is `stopping`."""

        async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] in OPEN_TO_ALL:
                return await app(scope, receive, send)
            if stopping():
                return await error_response(STOPPING, path=scope["path"])(scope, receive, send)
            self.inside += 1
            try:
                await app(scope, receive, send)
            finally:
                self.inside -= 1

        return asgi

    async def all_left(self, seconds: float) -> bool:
        """Whether everybody has left, once they have or after so long. Nobody inside = at once."""
        if not self.inside:
            return True
        try:
            async with asyncio.timeout(seconds):
                while self.inside:
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            return False
        # What was answered is on its way through Serve's proxy, which may be ended next.
        await asyncio.sleep(LEAVE_S)
        return True
