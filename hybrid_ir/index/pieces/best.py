"""The best passages by their best pieces ("max passage": Dai and Callan, arXiv 1905.09217, score a document so).

In: unit vectors of queries and of pieces. Out: for each query one piece a passage, the best that it has, by exact
scores. Equal scores of one passage's pieces: the first of them. It is exact, in any cut of passages into shards: a
piece that was not looked at scores below every passage that is given.

Q queries, D dimensions, P pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hybrid_ir.index.pieces.table import PieceTable
from hybrid_ir.index.searching.exact import exact_scores, exact_top
from hybrid_ir.index.searching.living import Living

MORE = 4
"""So many times the pieces are looked at next, where those before were of too few passages."""


def best_passages(
    queries: np.ndarray,
    vectors: np.ndarray,
    pieces: PieceTable,
    rows: Sequence[tuple[int, int]] | np.ndarray,
    k: int,
    living: Living | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(scores, pieces) of the k best passages of `rows` for each of the queries (Q, D), as `exact_top` gives rows:
    in no order, and more of them where passages tie with the k-th. vectors: (P, D); `living` is of pieces."""
    of_rows = pieces.of_rows(rows) if isinstance(rows, np.ndarray) else pieces.ranges(rows)
    results = [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(queries)
    open_, ask = np.arange(len(queries)), k
    while len(open_):
        unsure = []
        for n, (scores, found) in zip(open_, exact_top(queries[open_], vectors, of_rows, ask, living), strict=True):
            one = best_of_each(scores, found, pieces.owner)
            results[n] = one
            # With fewer pieces than were asked for there are no more; else passages behind them may be lacking.
            if len(one[0]) < k and len(found) >= ask:
                unsure.append(n)
        open_, ask = np.asarray(unsure, dtype=np.int64), MORE * ask
    return results


def best_of_each(scores: np.ndarray, pieces: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scores, pieces) of the best of each passage's, in the order of the passages; of equal scores the first piece."""
    order = np.lexsort((pieces, -scores))
    _, first = np.unique(owner[pieces[order]], return_index=True)
    best = order[first]
    return scores[best], pieces[best]


def best_by_codec(
    codec_best: Callable[[int], tuple[np.ndarray, np.ndarray]], pieces: PieceTable, ids: np.ndarray, wanted: int
) -> tuple[np.ndarray, np.ndarray]:
    """(codec scores, rows) of the `wanted` passages whose best pieces a lossy codec scores best, ties by id; fewer
    where the lists hold no more. ids: (N,) of all rows.

    `codec_best` gives the codec's scores and pieces of the best so many, best first; -1 stands where there are no more.
    """
    ask = wanted
    while True:
        ask = min(len(pieces), MORE * ask)
        scores, found = codec_best(ask)
        there = found >= 0
        best, first = best_of_each(scores[there], found[there], pieces.owner)
        rows = pieces.owner[first]
        order = np.lexsort((ids[rows], -best))
        # Nothing that was not found may be as good as the last passage that is taken.
        enough = len(order) >= wanted and best[order[wanted - 1]] > scores[-1]
        if enough or ask == len(pieces) or not there.all():
            return best[order[:wanted]], rows[order[:wanted]]


def score_passages(
    query: np.ndarray, vectors: np.ndarray, pieces: PieceTable, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(scores, pieces), (len(rows),) each: the exact score of every passage of `rows`, which is that of the best of its
    pieces, and that piece. query: (D,)."""
    if not len(rows):
        return np.empty(0, np.float32), np.empty(0, np.int64)
    every = pieces.of_rows(rows)
    scores = exact_scores(query, vectors.take(every, axis=0))
    counts = pieces.counts[rows]
    starts = np.cumsum(counts) - counts
    best = np.maximum.reduceat(scores, starts)
    is_best = np.flatnonzero(scores == np.repeat(best, counts))
    _, first = np.unique(np.repeat(np.arange(len(rows)), counts)[is_best], return_index=True)
    return best, every[is_best[first]]
