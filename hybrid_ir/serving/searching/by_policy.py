"""A search by a policy: more and more passages of each language are considered, until its hits are sure.

In: the first searches of a query's strata. Out: its hits in the order of the policy, and what each stands for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from hybrid_ir.index import Chosen, Hit, Policy, Ranked, ShardQuery, Stratum, choose, strata_of
from hybrid_ir.serving.api import SearchRequest
from hybrid_ir.serving.batcher import Started
from hybrid_ir.serving.release import ShardDown
from hybrid_ir.serving.searching.gathered import (
    Passages,
    Shown,
    merged_hits,
    missing_shards,
    piece_of,
    read_labels,
    read_passages,
    wait_for,
)
from hybrid_ir.serving.searching.queues import Serving

FIRST_DEPTH = 4
"""Passages of each stratum that are considered first, for each group that is asked for; then four times as many."""
MOST_CONSIDERED = 4096
"""Passages of a stratum that are considered at most."""
A_GROUP = 16
"""Passages of a stratum that are considered at most, for each hit of `serve.max_k`."""
MOST_ALSO = 100
"""Other passages of a group that a hit names."""


class Deepening(NamedTuple):
    """How many passages of each stratum are considered: `first`, and at most `last`."""

    first: int
    last: int


class Asked(NamedTuple):
    """What a request asks of a release."""

    query: ShardQuery
    """`k` counts hits, those before the page too, and the passage that others shall be like."""
    policy: Policy | None
    deepening: Deepening | None
    """None where nothing is grouped: then so many are asked for that none can be lacking."""

    def strata(self, languages: Collection[str]) -> list[Stratum]:
        """None without a policy. `languages` are those of the index."""
        if self.policy is None:
            return []
        if self.deepening is None:
            return strata_of(self.policy, self.query, languages)
        return strata_of(self.policy, _deep(self.query, self.deepening.first), languages)


def deepening_of(k: int, paged: bool, max_k: int) -> Deepening:
    """Of pages all consider as many: the more are considered, the more a hit's `also` may name."""
    last = max(k, min(MOST_CONSIDERED, A_GROUP * max_k))
    return Deepening(last if paged else min(last, FIRST_DEPTH * k), last)


async def hits_by_policy(
    serving: Serving,
    one: Started | None,
    strata: list[Stratum],
    asked: Asked,
    request: SearchRequest,
    own: tuple[int, int] | None,
    deadline: float,
    missing: set[int],
) -> Shown:
    """The page of one query, without `own` (shard, row). A shard that does not answer on the way joins `missing`."""
    assert asked.policy is not None
    release, read, policy = serving.release, Passages(), asked.policy
    k = asked.query.k - (own is not None)
    labels: dict[tuple[int, int], tuple[str, str | None]] = {}

    def group_of(hit: Hit) -> str | None:
        return labels[hit.shard, hit.row][1]

    while True:
        found = [merged_hits(serving, one, place, stratum.query, read) for place, stratum in enumerate(strata)]
        if policy.group_by is not None:
            new = [hit for hits in found for hit in hits if (hit.shard, hit.row) not in labels]
            labels |= await read_labels(release, new, policy.group_by, deadline, missing)
            found = [[hit for hit in hits if (hit.shard, hit.row) in labels] for hits in found]
        groups = group_of if policy.group_by is not None else None
        chosen = choose(found, strata, k, min_score=request.min_score, own=own, group_of=groups)
        considered = max(stratum.query.k for stratum in strata)
        if not chosen.cut or asked.deepening is None or considered >= asked.deepening.last or one is None or missing:
            break
        considered = min(asked.deepening.last, 4 * considered)
        deeper = strata_of(policy, _deep(asked.query, considered), release.manifest.languages)
        again = await _search_again(serving, one, deeper, deadline)
        missing |= missing_shards(sorted({n for each in one.searches for n in each}), [again])
        if missing:
            break
        one, strata = again, deeper
    offset = request.offset or 0
    return await _shown(serving, chosen, offset, policy, labels, read, deadline, missing)


async def _search_again(serving: Serving, one: Started, strata: Sequence[Stratum], deadline: float) -> Started | None:
    """The searches of more of each stratum, once they have ended; None if they have not begun before the deadline."""
    future = serving.submit_vector(one.vector, [stratum.query for stratum in strata])
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.perf_counter()):
            again = await future
    except (TimeoutError, ShardDown):
        return None
    await wait_for([again], deadline)
    return again


async def _shown(
    serving: Serving,
    chosen: Chosen,
    offset: int,
    policy: Policy,
    labels: dict[tuple[int, int], tuple[str, str | None]],
    read: Passages,
    deadline: float,
    missing: set[int],
) -> Shown:
    page = list(zip(chosen.hits, chosen.also, strict=True))[offset:]
    await read_passages(serving.release, [one.hit for one, _ in page], read, deadline, missing)
    there = [(one, also) for one, also in page if (one.hit.shard, one.hit.row) in read]
    more = [piece_of(one.hit) for one, _ in there]
    for said, (one, also) in zip(more, there, strict=True):
        if policy.bonuses:
            said["ranked_score"] = one.score
        if policy.group_by is not None:
            said["also"] = [_other(serving, other, labels) for other in also[:MOST_ALSO]]
    hits = [(read[one.hit.shard, one.hit.row], one.hit.score) for one, _ in there]
    cut = chosen.cut if policy.group_by is not None else None
    return Shown(hits, more, cut)


def _other(serving: Serving, other: Ranked, labels: dict[tuple[int, int], tuple[str, str | None]]) -> dict[str, Any]:
    hit = other.hit
    ranges = serving.release.manifest.shards[hit.shard].languages
    (language,) = [name for name, (start, end) in ranges.items() if start <= hit.row < end]
    return {"doc_id": labels[hit.shard, hit.row][0], "language": language, "score": hit.score}


def _deep(query: ShardQuery, considered: int) -> ShardQuery:
    """So that `considered` passages of each stratum are looked at, however many of them are shown."""
    return query._replace(k=considered, among=None)
