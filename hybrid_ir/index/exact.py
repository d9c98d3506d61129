"""Exact search: the best rows by dot product, the same alone or in a batch, whatever rows are beside them.

In: unit vectors of queries and of stored passages. Out: scores and rows. BLAS sums in an order that depends on the
batch, so its scores only choose candidates, with a margin; a score is then summed pair by pair.

Q queries, D dimensions, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np

MARGIN = 16
"""Candidates beyond k that BLAS scores choose."""
TIE = 1e-5
"""Two BLAS scores of unit vectors closer than this may be out of order (float32 errs by about 1e-7)."""
BLOCK = 16_384


def exact_scores(query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(C,) float32: dot products of one query (D,) with vectors (C, D), each row summed on its own, whatever rows
    are beside it (einsum's plain loop, not BLAS)."""
    return np.einsum("cd,d->c", vectors.astype(np.float32, copy=False), query)


def exact_top(
    queries: np.ndarray, vectors: np.ndarray, rows: Sequence[tuple[int, int]] | np.ndarray, k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(scores, rows) of the k best of `rows` (ranges, or an array of row numbers) for each of the queries (Q, D).

    In no order. Fewer than k where there are fewer rows; more where rows tie with the k-th: the caller cuts, by id.
    """
    count = len(rows) if isinstance(rows, np.ndarray) else sum(end - start for start, end in rows)
    results: list[Any] = [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(queries)
    open_ = np.arange(len(queries))
    ask = min(count, k + MARGIN)
    while len(open_) and count:
        rough, candidates = _scan_top(queries[open_], vectors, rows, ask)
        again = []
        for i, rough_scores, found in zip(open_, rough, candidates, strict=True):
            scores = exact_scores(queries[i], vectors[found])
            kth = np.partition(scores, -k)[-k] if len(scores) >= k else -np.inf
            if ask < count and rough_scores.min() >= kth - TIE:
                again.append(i)  # a row that was not returned may score as high as the k-th
                continue
            keep = np.flatnonzero(scores >= kth)
            results[i] = scores[keep], found[keep]
        open_ = np.asarray(again, dtype=np.int64)
        ask = min(count, ask * 8)
    return results


def _scan_top(
    queries: np.ndarray, vectors: np.ndarray, rows: Sequence[tuple[int, int]] | np.ndarray, ask: int
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, <= ask) BLAS scores and rows of the best, block by block so that memory stays that of a block."""
    best: tuple[np.ndarray, np.ndarray] | None = None
    for block, numbers in _blocks(vectors, rows):
        k = min(ask, len(block))
        scores, places = faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)
        found = (scores, numbers[places])
        if best is not None:
            scores, places = (np.concatenate(both, axis=1) for both in zip(best, found, strict=True))
            if scores.shape[1] > ask:
                top = np.argpartition(-scores, ask - 1, axis=1)[:, :ask]
                scores, places = (np.take_along_axis(a, top, axis=1) for a in (scores, places))
            found = (scores, places)
        best = found
    assert best is not None
    return best


def _blocks(
    vectors: np.ndarray, rows: Sequence[tuple[int, int]] | np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(float32 matrix, row numbers): whole ranges where they are float32 already, else pieces to convert or gather."""
    if isinstance(rows, np.ndarray):
        for start in range(0, len(rows), BLOCK):
            numbers = rows[start : start + BLOCK]
            yield vectors[numbers].astype(np.float32), numbers
        return
    for start, end in rows:
        step = end - start if vectors.dtype == np.float32 else BLOCK
        for first in range(start, end, max(1, step)):
            last = min(first + step, end)
            yield np.asarray(vectors[first:last], dtype=np.float32), np.arange(first, last)


def nearest_lists(queries: np.ndarray, centroids: np.ndarray, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
    """(Q, nprobe) list numbers (int64) and their scores (float32), best first: the same in any batch and any shard."""
    ask = min(len(centroids), nprobe + MARGIN)
    if ask == len(centroids):
        rough = np.broadcast_to(np.arange(ask), (len(queries), ask))
    else:
        _, rough = faiss.knn(queries, centroids, ask, metric=faiss.METRIC_INNER_PRODUCT)
    lists = np.empty((len(queries), nprobe), dtype=np.int64)
    scores = np.empty((len(queries), nprobe), dtype=np.float32)
    for i, numbers in enumerate(rough):
        exact = exact_scores(queries[i], centroids[numbers])
        order = np.lexsort((numbers, -exact))[:nprobe]
        lists[i], scores[i] = numbers[order], exact[order]
    return lists, scores
