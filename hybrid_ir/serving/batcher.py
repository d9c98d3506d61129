"""Micro-batches of one release's queries.

In: a text with what is asked of the shards. Out: the searches that its batch has started.
A batch takes what has come and never waits to fill: alone, a query goes at once; under load the next batch gathers
while the one before is encoded.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hybrid_ir.index import ShardQuery
from hybrid_ir.serving.release import Release, ShardAnswer

Observe = Callable[[str, float, dict[str, str]], None]
"""Receives (metric name, value, labels)."""

STALL_S = 0.25
"""A shard slower than this no longer holds up the next batch."""


@dataclass(slots=True)
class _Waiting:
    text: str
    query: ShardQuery
    started: asyncio.Future[Started]
    since: float


@dataclass(slots=True)
class Started:
    """A query whose batch is on its way through the shards: `tasks[s]` answers for its `place`-th query."""

    tasks: list[asyncio.Task[ShardAnswer]]
    place: int
    queue_s: float
    encode_s: float


class Batcher:
    """Encodes waiting queries together and starts their searches, one batch after the other, for one release."""

    def __init__(self, release: Release, max_batch: int, observe: Observe) -> None:
        self._release, self._max_batch, self._observe = release, max_batch, observe
        self._waiting: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._encoding: list[_Waiting] = []
        self._shards = range(len(release.manifest.shards))

    def __len__(self) -> int:
        return len(self._waiting)

    def waited_s(self) -> float:
        """Seconds that the first of the queries has waited whose encoding has not ended: an encoder that hangs shows
        here, while no batch comes to its end."""
        first = next(iter([*self._encoding, *self._waiting]), None)
        return 0.0 if first is None else time.perf_counter() - first.since

    def submit(self, text: str, query: ShardQuery) -> asyncio.Future[Started]:
        """Done once the query is encoded and its searches have begun. Cancel it to leave the queue."""
        loop = asyncio.get_running_loop()
        item = _Waiting(text, query, loop.create_future(), time.perf_counter())
        self._waiting.append(item)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return item.started

    async def _work(self) -> None:
        searching: list[asyncio.Task[ShardAnswer]] = []
        while self._waiting:
            batch: list[_Waiting] = []
            while self._waiting and len(batch) < self._max_batch:
                item = self._waiting.popleft()
                if not item.started.cancelled():
                    batch.append(item)
            if not batch:
                continue
            start = time.perf_counter()
            self._encoding = batch
            try:
                vectors = await self._release.encode([item.text for item in batch], "query")
            except Exception as error:  # handed to the requests, which answer with it
                for item in batch:
                    if not item.started.done():
                        item.started.set_exception(error)
                continue
            finally:
                self._encoding = []
                encoded = time.perf_counter()
                self._observe("batch_size", len(batch), {})
                self._observe("encode_duration_seconds", encoded - start, {})
            # While this batch is searched the next is encoded, and no more than that.
            if searching:
                await asyncio.wait(searching, timeout=STALL_S)
            queries = [item.query for item in batch]
            searching = [asyncio.create_task(self._search(n, vectors, queries)) for n in self._shards]
            for task in searching:  # a request that has left asks for no result, and its error is no news
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
            for place, item in enumerate(batch):
                if not item.started.done():
                    item.started.set_result(Started(searching, place, start - item.since, encoded - start))

    async def _search(self, shard: int, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> ShardAnswer:
        start = time.perf_counter()
        try:
            return await self._release.search(shard, vectors, queries)
        finally:
            name = self._release.manifest.shards[shard].name
            self._observe("shard_duration_seconds", time.perf_counter() - start, {"shard": name})
