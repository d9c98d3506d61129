"""How many requests a key may send: a bucket for each key, which is full at first and fills again by the minute.

In: an ASGI app, its keys. Out: the same app, which is not asked what is over a key's limit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hybrid_ir.serving.checks import RequestError, carries
from hybrid_ir.serving.http_app import OPEN_TO_ALL, error_response


class Buckets:
    """One for each key, whoever asks with it: strangers' keys take no memory."""

    def __init__(self, keys: Sequence[str], per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._per_s, self._clock = float(per_minute), per_minute / 60, clock
        now = clock()
        self._left = dict.fromkeys(keys, (self._most, now))
        """Key -> (how many requests it had left, when)."""

    def wait_s(self, authorization: str) -> float:
        """Seconds until the key of an Authorization header may ask; 0 = now, which counts as asked. What has no key of
        ours is not limited: the service refuses it."""
        for key, (left, since) in self._left.items():
            if carries(authorization, (key,)):
                now = self._clock()
                left = min(self._most, left + (now - since) * self._per_s)
                asks = left >= 1
                self._left[key] = left - asks, now
                return 0.0 if asks else (1 - left) / self._per_s
        return 0.0


def limited(app: ASGIApp, buckets: Buckets) -> ASGIApp:
    """`app`, behind 429 with Retry-After for requests over their key's limit. `OPEN_TO_ALL` is not counted."""

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_TO_ALL:
            wait_s = buckets.wait_s(Request(scope).headers.get("authorization", ""))
            if wait_s:
                said = f"this key has no request left; ask again in {wait_s:.1f} s (serve.requests_per_minute)"
                error, whole_s = RequestError(429, "rate_limited", said), math.ceil(wait_s)
                response = error_response(error, retry_after_s=whole_s, path=scope["path"])
                return await response(scope, receive, send)
        await app(scope, receive, send)

    return asgi
