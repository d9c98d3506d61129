"""What a search asks of a shard, and what a shard answers. The merge of several shards' answers into one.

In: each shard's candidates of a query. Out: the hits of the whole index, as one shard would have given them.

C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hybrid_ir.index.passages import IndexedPassage


class ShardQuery(NamedTuple):
    """What a search asks besides its vector. Hashable: queries with one filter are searched together."""

    k: int
    languages: tuple[str, ...] | None = None
    """None = all; otherwise sorted, without repeats."""
    metadata: tuple[tuple[str, str], ...] = ()
    """(key, canonical value) pairs that must all be equal."""
    among: int | None = None
    """The k hits are the first of so many: a lossy codec's candidates depend on their number, so only answers with one
    `among` have one order, as the pages of a query must. None = of k."""


class Found(NamedTuple):
    """Candidates of one query in one shard, in no promised order."""

    codec_scores: np.ndarray
    """(C,) float32: what the codec ranked by; equal to `scores` where nothing is lossy."""
    scores: np.ndarray
    """(C,) float32, exact."""
    ids: np.ndarray
    """(C,) int64 global ids."""
    rows: np.ndarray
    """(C,) int64 rows of the shard."""


class Hit(NamedTuple):
    shard: int
    row: int
    global_id: int
    score: float


class Stored(NamedTuple):
    """A passage as its shard has it."""

    row: int
    passage: IndexedPassage
    vector: np.ndarray
    """(D,) float32, unit length: as stored in an index without loss; else as the float16 that exact scores come from,
    made unit length again."""


def depth(k: int) -> int:
    """Candidates of a lossy codec that are scored exactly."""
    return max(40, 4 * k)


def is_flat(codec: str) -> bool:
    return codec == "Flat"


def merge(parts: Sequence[Found | None], k: int, lossy: bool, among: int | None = None) -> list[Hit]:
    """The k best of several shards' candidates for one query. A shard that did not answer is None.

    Ordered by exact score, then by global id. With a lossy codec only the `depth(among)` best by codec score take
    part; `among` is the query's.
    """
    there = [(i, part) for i, part in enumerate(parts) if part is not None and len(part.ids)]
    if not lossy:
        # Some twenty candidates: sorting them as Python numbers takes a fifth of numpy's time.
        hits = [
            (-score, global_id, i, row)
            for i, part in there
            for score, global_id, row in zip(part.scores.tolist(), part.ids.tolist(), part.rows.tolist(), strict=True)
        ]
        return [Hit(shard, row, global_id, -score) for score, global_id, shard, row in sorted(hits)[:k]]
    if not there:
        return []
    shards = np.concatenate([np.full(len(part.ids), i) for i, part in there])
    codec_scores, scores, ids, rows = (np.concatenate([part[n] for _, part in there]) for n in range(4))
    keep = np.lexsort((ids, -codec_scores))[: depth(among or k)]
    shards, scores, ids, rows = shards[keep], scores[keep], ids[keep], rows[keep]
    order = np.lexsort((ids, -scores))[:k]
    return [Hit(*hit) for hit in zip(*(a[order].tolist() for a in (shards, rows, ids, scores)), strict=True)]
