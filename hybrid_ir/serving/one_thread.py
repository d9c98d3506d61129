"""The thread that computes, of an encoder or of shards, and whether it is stuck.

In: calls, one after the other. Out: their results.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from hybrid_ir.serving.release import Stuck

STUCK_S = 15
"""Longer than the longest deadline by default: whoever waited for the call is gone."""
T = TypeVar("T")


class OneThread:
    """Runs calls in one thread of its own: how many threads torch and FAISS may use is set by thread."""

    def __init__(self, initializer: Callable[..., Any] | None = None, *arguments: Any) -> None:
        self._pool = ThreadPoolExecutor(1, initializer=initializer, initargs=arguments)
        self._since: float | None = None

    def wait_for(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a call, while the service starts: it may take as long as it likes."""
        return self._pool.submit(function, *arguments).result()

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._timed, function, arguments)

    def soon(self, function: Callable[..., Any]) -> None:
        """Call it when the thread is free; what it returns or raises is nobody's."""
        self._pool.submit(function)

    @property
    def stuck(self) -> bool:
        since = self._since
        return since is not None and time.monotonic() - since > STUCK_S

    def check(self) -> None:
        """Raises Stuck if one call has been running for `STUCK_S`."""
        if self.stuck:
            raise Stuck(f"one call has been running for more than {STUCK_S} s")

    def close(self) -> None:
        self._pool.shutdown(wait=False)

    def _timed(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        self._since = time.monotonic()
        try:
            return function(*arguments)
        finally:
            self._since = None
