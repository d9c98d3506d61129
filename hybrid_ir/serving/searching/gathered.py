"""What shards have answered until now, and the passages of what is shown.

In: searches that have begun. Out: hits, their passages, and the shards that did not answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from hybrid_ir.index import Found, Hit, IndexedPassage, ShardQuery, merge
from hybrid_ir.serving.api import SearchRequest
from hybrid_ir.serving.batcher import Started
from hybrid_ir.serving.release import Release, ShardDown
from hybrid_ir.serving.searching.queues import Serving

Passages = dict[tuple[int, int], IndexedPassage]
"""(shard, row) -> the passage, of those that were read."""


class Shown(NamedTuple):
    """What is shown of one query."""

    hits: list[tuple[IndexedPassage, float]]
    """(passage, score)."""
    more: list[dict[str, Any]] | None = None
    """What each hit says besides; None = nothing."""
    cut: bool | None = None
    """Whether there may be more groups; None = nothing is grouped."""
    reranked: dict[str, int] | None = None
    """How many hits were to be reranked, and how many were; None = nothing is reranked."""


def missing_shards(needed: Sequence[int], started: Sequence[Started | None]) -> set[int]:
    """Of the shards that a request needs, those that have not answered all that it asks of them."""
    missing: set[int] = set()
    for one in started:
        if one is None:
            return set(needed)
        for searches in one.searches:
            for n, (task, _) in searches.items():
                if not task.done():
                    missing.add(n)
                elif (error := task.exception()) is not None:
                    if not isinstance(error, ShardDown):
                        raise error
                    missing.add(n)
    return missing


async def wait_for(started: Iterable[Started | None], deadline: float) -> None:
    """Until all searches have ended, or the deadline passes (time.perf_counter)."""
    tasks = {task for one in started if one is not None for searches in one.searches for task, _ in searches.values()}
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.0, deadline - time.perf_counter()))


def merged_hits(serving: Serving, one: Started | None, place: int, query: ShardQuery, read: Passages) -> list[Hit]:
    """The hits of one of the things that a text asks, as one shard would have given them; `place` is its place among
    them. Passages that came along with the hits are put into `read`."""
    manifest = serving.release.manifest
    parts: list[Found | None] = [None] * len(manifest.shards)
    for n, (task, number) in ({} if one is None else one.searches[place]).items():
        if task.done() and task.exception() is None:  # `missing_shards` has seen the others
            found, texts = task.result()
            parts[n] = found[number]
            for row, passage in texts.items():
                read[n, row] = passage
    lossy = serving.lossy and query.words is None
    return merge(parts, query.k, lossy, query.among, manifest.candidates)


async def plain_hits(
    serving: Serving,
    started: Sequence[Started | None],
    query: ShardQuery,
    request: SearchRequest,
    own: tuple[int, int] | None,
    deadline: float,
    missing: set[int],
) -> list[Shown]:
    """The page of each query by score, without `own` (shard, row). A shard whose passages cannot be read joins
    `missing`."""
    read = Passages()
    merged: list[list[Hit]] = []
    for one in started:
        hits = merged_hits(serving, one, 0, query, read)
        if own is not None:
            hits = [hit for hit in hits if (hit.shard, hit.row) != own][: query.k - 1]
        if request.offset:
            hits = hits[request.offset :]
        if request.min_score is not None:
            hits = [hit for hit in hits if hit.score >= request.min_score]
        merged.append(hits)
    await read_passages(serving.release, chain.from_iterable(merged), read, deadline, missing)
    shown = ([hit for hit in hits if (hit.shard, hit.row) in read] for hits in merged)
    return [Shown([(read[hit.shard, hit.row], hit.score) for hit in hits], list(map(piece_of, hits))) for hits in shown]


def piece_of(hit: Hit) -> dict[str, Any]:
    """What an answer says of the piece that a hit was found by."""
    return {} if hit.piece is None else {"piece": hit.piece}


async def read_passages(
    release: Release, hits: Iterable[Hit], read: Passages, deadline: float, missing: set[int]
) -> None:
    """Put the passages of the hits into `read`. A shard that does not give them in time joins `missing`."""
    unread: dict[int, list[int]] = {}
    for hit in hits:
        if (hit.shard, hit.row) not in read:
            unread.setdefault(hit.shard, []).append(hit.row)
    for n, rows in unread.items():
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + _rest(deadline)):
                passages = await release.read(n, rows)
        except (TimeoutError, ShardDown):
            missing.add(n)
            continue
        for row, passage in zip(rows, passages, strict=True):
            read[n, row] = passage


async def read_labels(
    release: Release, hits: Iterable[Hit], key: str, deadline: float, missing: set[int]
) -> dict[tuple[int, int], tuple[str, str | None]]:
    """(shard, row) -> (doc_id, JSON of the value of a metadata key, or None) of each hit. A shard that does not give
    them in time joins `missing`."""
    rows: dict[int, list[int]] = {}
    for hit in hits:
        rows.setdefault(hit.shard, []).append(hit.row)

    async def of_shard(n: int) -> list[tuple[str, str | None]]:
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + _rest(deadline)):
                return await release.labels(n, rows[n], key)
        except (TimeoutError, ShardDown):
            missing.add(n)
            return []

    answers = await asyncio.gather(*map(of_shard, rows))
    return {
        (n, row): label
        for n, labels in zip(rows, answers, strict=True)
        for row, label in zip(rows[n], labels, strict=bool(labels))
    }


def _rest(deadline: float) -> float:
    """Seconds that reading may take: a moment too where the deadline has passed, to show what was found."""
    return max(0.05, deadline - time.perf_counter())
