"""Micro-batches of one release's queries.

In: a text, or a stored vector, with all that is asked of the shards for it; what makes vectors of texts. Out: the
searches that its batch has started.
A batch never waits to fill: alone, a query goes at once; under load the next batch gathers while the one before is
encoded. It takes half of what has come, so that one half is encoded while the other is searched for and answered.
Whoever has an answer asks again, and a batch of all that wait would leave the encoder with nothing to do meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from hybrid_ir.index import Manifest, ShardQuery, depth
from hybrid_ir.serving.release import Encoded, Release, ShardAnswer
from hybrid_ir.serving.tracing.spans import CALLERS, Caller, within

T = TypeVar("T")
Observe = Callable[[str, float, dict[str, str]], None]
"""Receives (metric name, value, labels)."""

LEAST = 4
"""So many, where they wait, go together: two or three take an encoder almost as long."""
MOST_CANDIDATES = 1 << 16
"""Of a call to a shard in which a text asks several things. They take 24 bytes each, and what one process may answer
another over Ray Serve's gRPC is 4 MiB."""
MOST_POSTINGS = 1 << 26
"""Of all words of a request, and of a call to a shard: they take one thread about 2 s (measured: 27 ns each), in which
it answers nobody else."""
STALL_S = 0.25
"""A shard slower than this no longer holds up the next batch."""


@dataclass(slots=True)
class _Waiting(Generic[T]):
    text: T
    queries: Sequence[ShardQuery]
    started: asyncio.Future[Started]
    since: float
    callers: tuple[Caller, ...]
    """Whose trace it is in."""


@dataclass(slots=True)
class Started:
    """A query whose batch is on its way through the shards that it needs."""

    searches: list[dict[int, tuple[asyncio.Task[ShardAnswer], int]]]
    """For each thing that it asks: number of a shard -> the search that answers for it, and which of that search's
    queries this one is."""
    vector: np.ndarray
    """(D,) float32, unit length."""
    cut: bool
    """Whether the query was longer than the encoder reads."""
    queue_s: float
    encode_s: float


class Batcher(Generic[T]):
    """Encodes waiting queries together and starts their searches, one batch after the other, for one release."""

    def __init__(
        self,
        release: Release,
        encode: Callable[[Sequence[T]], Awaitable[Encoded]],
        max_batch: int,
        observe: Observe,
    ) -> None:
        self._release, self._encode, self._max_batch, self._observe = release, encode, max_batch, observe
        # Those that wait, in their order. One that is cancelled leaves at once, also while the encoder hangs.
        self._waiting: dict[asyncio.Future[Started], _Waiting[T]] = {}
        self._worker: asyncio.Task[None] | None = None
        # A batch is of several requests: what is logged of it must not have the id of the one that came first.
        self._context = contextvars.copy_context()
        self._encoding: list[_Waiting[T]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def waited_s(self) -> float:
        """Seconds that the first of the queries has waited whose encoding has not ended: an encoder that hangs shows
        here, while no batch comes to its end."""
        first = next(iter([*self._encoding, *self._waiting.values()]), None)
        return 0.0 if first is None else time.perf_counter() - first.since

    def submit(self, text: T, queries: Sequence[ShardQuery]) -> asyncio.Future[Started]:
        """Done once the text is encoded and the searches of all `queries` for it have begun. Cancel it to leave the
        queue."""
        loop = asyncio.get_running_loop()
        started: asyncio.Future[Started] = loop.create_future()
        self._waiting[started] = _Waiting(text, queries, started, time.perf_counter(), CALLERS.get())
        started.add_done_callback(lambda one: self._waiting.pop(one, None))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work(), context=self._context)
        return started

    async def _work(self) -> None:
        searching: list[asyncio.Task[ShardAnswer]] = []
        while self._waiting:
            size = min(self._max_batch, max(LEAST, -(-len(self._waiting) // 2)))
            batch = [item for item in islice(self._waiting.values(), size) if not item.started.cancelled()]
            for item in batch:
                del self._waiting[item.started]
            if not batch:  # all of them are cancelled, and about to leave
                await asyncio.sleep(0)
                continue
            start = time.perf_counter()
            self._encoding = batch
            try:
                with within("encode", _callers(batch), {"hybrid_ir.batch.size": len(batch)}):
                    encoding = await self._encode([item.text for item in batch])
            except Exception as error:  # handed to the requests, which answer with it
                for item in batch:
                    if not item.started.done():
                        item.started.set_exception(error)
                continue
            finally:
                self._encoding = []
                encoded = time.perf_counter()
                self._observe("batch_size", len(batch), {})
            # While this batch is searched the next is encoded, and no more than that.
            if searching:
                await asyncio.wait(searching, timeout=STALL_S)
            # Those who left while their batch was encoded are not searched for.
            left = [place for place, item in enumerate(batch) if item.started.done()]
            batch = [item for item in batch if not item.started.done()]
            vectors, cut = (np.delete(a, left, axis=0) if left else a for a in (encoding.vectors, encoding.cut))
            queries = [query for item in batch for query in item.queries]
            traced = any(item.callers for item in batch)
            owners = [item for item in batch for _ in item.queries] if traced else []
            one_each = len(queries) == len(batch)
            each = vectors if one_each else np.repeat(vectors, [len(item.queries) for item in batch], axis=0)
            places = [self._shards_of(query) for query in queries]
            searches: list[dict[int, tuple[asyncio.Task[ShardAnswer], int]]] = [{} for _ in queries]
            searching = []
            for shard in sorted({n for shards in places for n in shards}):
                wanted = [place for place, shards in enumerate(places) if shard in shards]
                # One call, unless a text asks several things, or words.
                whole = one_each and all(queries[place].words is None for place in wanted)
                for members in (wanted,) if whole else self._calls(wanted, queries):
                    rows = each if len(members) == len(queries) else each[members]
                    asked, callers = [queries[place] for place in members], ()
                    if traced:
                        callers = _callers({id(one): one for one in map(owners.__getitem__, members)}.values())
                    task = asyncio.create_task(self._search(shard, rows, asked, callers))
                    # A request that has left asks for no result, and its error is no news.
                    task.add_done_callback(lambda done: done.cancelled() or done.exception())
                    searching.append(task)
                    for number, place in enumerate(members):
                        searches[place][shard] = task, number
            first = 0
            for row, (item, was_cut) in enumerate(zip(batch, cut.tolist(), strict=True)):
                own = searches[first : first + len(item.queries)]
                first += len(own)
                item.started.set_result(Started(own, vectors[row], was_cut, start - item.since, encoded - start))

    def _calls(self, places: Sequence[int], queries: Sequence[ShardQuery]) -> list[list[int]]:
        """The places, cut into calls whose answers are of a size that passes between processes, and that do not hold
        up what comes behind them."""
        calls: list[list[int]] = [[]]
        size = postings = 0
        for place in places:
            query = queries[place]
            one = depth(query.among or query.k, self._release.manifest.candidates)
            read = 0 if query.words is None else query.words.postings
            if calls[-1] and (size + one > MOST_CANDIDATES or postings + read > MOST_POSTINGS):
                calls.append([])
                size = postings = 0
            calls[-1].append(place)
            size, postings = size + one, postings + read
        return calls

    def _shards_of(self, query: ShardQuery) -> tuple[int, ...]:
        return needed_shards(self._release.manifest, query.languages)

    async def _search(
        self, shard: int, vectors: np.ndarray, queries: Sequence[ShardQuery], callers: tuple[Caller, ...]
    ) -> ShardAnswer:
        start, name = time.perf_counter(), self._release.manifest.shards[shard].name
        try:
            with within("search", callers, {"hybrid_ir.shard": name, "hybrid_ir.batch.size": len(queries)}):
                return await self._release.search(shard, vectors, queries)
        finally:
            self._observe("shard_duration_seconds", time.perf_counter() - start, {"shard": name})


def _callers(items: Iterable[_Waiting[Any]]) -> tuple[Caller, ...]:
    """Each of them once, however many of the queries are its request's."""
    return tuple({id(caller): caller for item in items for caller in item.callers}.values())


def needed_shards(manifest: Manifest, languages: tuple[str, ...] | None) -> tuple[int, ...]:
    """Numbers of the shards that hold passages of any of the languages; None = of all."""
    shards = enumerate(manifest.shards)
    return tuple(n for n, one in shards if languages is None or not one.living.keys().isdisjoint(languages))
