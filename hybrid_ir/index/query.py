"""What a search asks of a shard, what all shards know of the index, what a shard answers, and how answers are merged.

In: each shard's candidates of a query. Out: the hits of the whole index, as one shard would have given them.

C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from hybrid_ir.index.filters.form import Filter
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.pieces.entry import PiecesOf
from hybrid_ir.lexical import LexicalQuery

CANDIDATES = 4
"""Of each hit, by default and in an index whose manifest does not say."""
EXACT_BELOW = 20_000
"""A language filter that leaves fewer passages than this is scanned: an IVF visits too few lists to find them."""


class ShardQuery(NamedTuple):
    """What a search asks besides its vector. Hashable: queries with one filter are searched together."""

    k: int
    languages: tuple[str, ...] | None = None
    """None = all; otherwise sorted, without repeats."""
    where: Filter | None = None
    """What metadata must be; None = anything."""
    among: int | None = None
    """The k hits are the first of so many: a lossy codec's candidates depend on their number, so only answers with one
    `among` have one order, as the pages of a query must. None = of k."""
    texts: bool = True
    """Whether a shard that is elsewhere sends the passages of the likely hits along."""
    words: LexicalQuery | None = None
    """Of a lexical search: its scores are those of BM25, and the vector is not looked at. None = search by the
    vector."""
    pieces: int = 0
    """Of a lexical search in an index whose long passages are in pieces: for so many of its best hits, the piece with
    most of the words."""


@dataclass(frozen=True, eq=False)
class Totals:
    """What every shard must know of the whole index, so that all of them decide alike."""

    codec: str
    nprobe: int
    languages: dict[str, int]
    candidates: int = CANDIDATES
    """Passages for each hit that the codec finds over all shards, and that are scored exactly."""
    counts: np.ndarray | None = None
    """(languages, lists): passages of each language, in the order of their names, in each inverted list of all shards;
    None in an index of format 1, and for Flat."""

    pieces: PiecesOf | None = None
    """How many vectors the passages have; None = one each."""

    def scans(self, query: ShardQuery) -> bool:
        """Whether a query is answered by an exact scan of what its filter leaves."""
        if is_flat(self.codec) or query.where is not None:
            return True
        return query.languages is not None and self.left(query) < EXACT_BELOW

    def probes(self, query: ShardQuery, lists: int) -> int:
        """Lists to visit: more for a filter, by the share of the passages it leaves."""
        if query.languages is None:
            return min(lists, self.nprobe)
        share = self.left(query) / max(1, self._rows)
        return min(lists, int(np.ceil(self.nprobe / max(share, 1e-9))))

    def in_lists(self, query: ShardQuery) -> np.ndarray | None:
        """(lists,): passages in each list that the query's language filter leaves."""
        if self.counts is None:
            return None
        if query.languages is None:
            return self._in_lists
        names = sorted(self.languages)
        return self.counts[[names.index(name) for name in query.languages if name in self.languages]].sum(axis=0)

    @cached_property
    def _in_lists(self) -> np.ndarray:
        assert self.counts is not None
        return self.counts.sum(axis=0)

    def enough(self, wanted: int) -> int:
        """So many vectors, whichever they are, are of `wanted` passages at least, if there are so many passages."""
        return wanted if self.pieces is None else self.pieces.enough(wanted)

    def left(self, query: ShardQuery) -> int:
        """Passages of the whole index that the query's language filter leaves."""
        if query.languages is None:
            return self._rows
        return sum(self.languages.get(name, 0) for name in query.languages)

    @cached_property
    def _rows(self) -> int:
        return sum(self.languages.values())


class Found(NamedTuple):
    """Candidates of one query in one shard, best first: by exact score, then by global id."""

    codec_scores: np.ndarray
    """(C,) float32: what the codec ranked by; equal to `scores` where nothing is lossy."""
    scores: np.ndarray
    """(C,) float32, exact."""
    ids: np.ndarray
    """(C,) int64 global ids."""
    rows: np.ndarray
    """(C,) int64 rows of the shard."""
    spans: np.ndarray | None = None
    """(C, 2): the first character of the piece that has the score, and the character after its last; -1 where it
    was not looked for. None in a shard that has a vector a passage."""


class Hit(NamedTuple):
    shard: int
    row: int
    global_id: int
    score: float
    piece: tuple[int, int] | None = None
    """Of a passage in pieces: where in its text the one is that has the score, or most of the words."""


class Stored(NamedTuple):
    """A passage as its shard has it."""

    row: int
    passage: IndexedPassage
    vector: np.ndarray | None
    """(D,) float32, unit length: as stored in an index without loss; else as the float16 that exact scores come from,
    made unit length again. None of a passage in several pieces."""


def depth(k: int, candidates: int = CANDIDATES) -> int:
    """Passages that a lossy codec finds for k hits, over all shards; these are scored exactly."""
    return candidates * max(10, k)


def is_flat(codec: str) -> bool:
    return codec == "Flat"


def merge(
    parts: Sequence[Found | None], k: int, lossy: bool, among: int | None = None, candidates: int = CANDIDATES
) -> list[Hit]:
    """The k best of several shards' candidates for one query. A shard that did not answer is None.

    Ordered by exact score, then by global id. With a lossy codec only the `depth(among, candidates)` best by codec
    score take part; `among` is the query's, and `candidates` the index's.
    """
    there = [(i, part) for i, part in enumerate(parts) if part is not None and len(part.ids)]
    if lossy and len(there) > 1:
        there = _cut_by_codec(there, depth(among or k, candidates))
    # Some twenty candidates: sorting them as Python numbers takes a fifth of numpy's time.
    hits = [
        (-score, global_id, i, row)
        for i, part in there
        for score, global_id, row in zip(
            part.scores[:k].tolist(), part.ids[:k].tolist(), part.rows[:k].tolist(), strict=True
        )
    ]
    if len(there) > 1:
        hits.sort()
    best = [Hit(shard, row, global_id, -score) for score, global_id, shard, row in hits[:k]]
    if all(part.spans is None for _, part in there):
        return best
    return [_with_piece(hit, parts[hit.shard]) for hit in best]


def _with_piece(hit: Hit, part: Found | None) -> Hit:
    assert part is not None
    assert part.spans is not None
    start, end = part.spans[int(np.flatnonzero(part.rows == hit.row)[0])].tolist()
    return hit._replace(piece=(start, end)) if start >= 0 else hit


def _cut_by_codec(parts: list[tuple[int, Found]], wanted: int) -> list[tuple[int, Found]]:
    """The parts with the `wanted` best by codec score of all of them together, ties by global id."""
    codec_scores = np.concatenate([part.codec_scores for _, part in parts])
    if len(codec_scores) <= wanted:
        return parts
    last = np.partition(codec_scores, -wanted)[-wanted]
    if np.count_nonzero(codec_scores >= last) == wanted:
        keeps = [part.codec_scores >= last for _, part in parts]
    else:
        keep = np.zeros(len(codec_scores), dtype=bool)
        keep[np.lexsort((np.concatenate([part.ids for _, part in parts]), -codec_scores))[:wanted]] = True
        keeps = np.split(keep, np.cumsum([len(part.ids) for _, part in parts])[:-1])
    return [(i, _those(part, keep)) for (i, part), keep in zip(parts, keeps, strict=True)]


def _those(part: Found, keep: np.ndarray) -> Found:
    spans = None if part.spans is None else part.spans[keep]
    return Found(part.codec_scores[keep], part.scores[keep], part.ids[keep], part.rows[keep], spans)
