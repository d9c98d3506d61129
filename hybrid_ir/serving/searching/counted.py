"""Queries that are counted before any queue has them, so that a flood of them is refused as one that waits would be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hybrid_ir.serving.checks import RequestError


class Counted:
    """Those of one kind of search that are not answered yet. For one event loop."""

    def __init__(self, most: int, said: str) -> None:
        """`said` is what the refused are told after how many there are."""
        self._most, self._said, self._queries = most, said, 0

    @contextmanager
    def during(self, queries: int) -> Iterator[None]:
        """Meanwhile there are so many more. Raises RequestError where these and the others are too many; a request
        that comes alone is answered, however large."""
        if self._queries and self._queries + queries > self._most:
            raise RequestError(429, "busy", f"{self._queries} {self._said}")
        self._queries += queries
        try:
            yield
        finally:
            self._queries -= queries
