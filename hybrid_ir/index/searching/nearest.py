"""The inverted lists that are nearest to a query, found once for all shards of an index in one process.

In: unit vectors of queries, and the coarse quantizer. Out: numbers and scores of lists, the same for a query alone and
in a batch.

Q queries, D dimensions.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from hybrid_ir.index.searching.exact import MARGIN
from hybrid_ir.index.searching.recent import Recent
from hybrid_ir.machine import usable_cpus

TOGETHER = 4
"""Queries from which a matrix product finds nearest lists faster than FAISS's loop."""
PRODUCT = 1 << 18
"""Multiplications that OpenBLAS does in one thread, however many it has. Its own threads go on waiting for work after a
product, and take the processors from those that search: a batch of 32 then takes up to twice the time."""
_PRODUCT_QUERIES = 16
_BATCHES = 16
"""Of which the nearest lists are kept. A batch is searched in as many parts as there are threads."""


class NearestLists:
    """Given to all shards of one index in one process. It keeps what the last batches found. Thread-safe."""

    def __init__(self) -> None:
        self._recent = Recent(_BATCHES * usable_cpus())
        self._centroids: np.ndarray | None = None

    def find(self, queries: np.ndarray, quantizer: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, count) list numbers (int64) and scores (float32), best first, for queries (Q, D)."""
        key = (count, queries.tobytes())
        return self._recent.get(key, lambda: nearest_lists(queries, quantizer, count, self._centroids_of(quantizer)))

    def that_hold(
        self, enough: int, holds: np.ndarray | None, queries: np.ndarray, quantizer: Any, nprobe: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(Q, lists to visit) numbers and scores: `nprobe` of them, and more until they hold `enough` passages of the
        whole index. `holds` are the passages in each list, None where they were not counted. A list of number -1 is
        not visited."""
        lists, scores = self.find(queries, quantizer, nprobe)
        if holds is None:
            return lists, scores
        while holds[lists].sum(axis=1).min() < enough and lists.shape[1] < len(holds):
            lists, scores = self.find(queries, quantizer, min(len(holds), 2 * lists.shape[1]))
        if lists.shape[1] > nprobe:
            reached = holds[lists].cumsum(axis=1)
            visited = np.maximum(nprobe, 1 + (reached < enough).sum(axis=1))
            lists = np.where(np.arange(lists.shape[1]) < visited[:, None], lists, -1)
        return lists, scores

    def _centroids_of(self, quantizer: Any) -> np.ndarray:
        """(lists, D) copied once: in the mapped file they stand at odd addresses, and numpy would copy them each time.

        It takes 6 MB for the 4096 lists of a million passages of 384 dimensions.
        """
        if self._centroids is None:
            centroids = faiss.rev_swig_ptr(quantizer.get_xb(), quantizer.ntotal * quantizer.d)
            self._centroids = centroids.reshape(-1, quantizer.d).copy()
        return self._centroids


def nearest_lists(
    queries: np.ndarray, quantizer: Any, count: int, centroids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, count) list numbers and scores, best first; `quantizer` is the `faiss.IndexFlatIP` of the centroids.

    Scores of a matrix product depend on the batch, so they only choose candidates, which the quantizer then scores pair
    by pair.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    ask = min(quantizer.ntotal, count + MARGIN)
    scores, rough = np.empty((len(queries), ask), np.float32), np.empty((len(queries), ask), np.int64)
    if ask == quantizer.ntotal:
        rough[:] = np.arange(ask)
    elif len(queries) < TOGETHER:
        quantizer.search_c(len(queries), faiss.swig_ptr(queries), ask, faiss.swig_ptr(scores), faiss.swig_ptr(rough))
    else:
        for start in range(0, len(queries), _PRODUCT_QUERIES):
            part = slice(start, start + _PRODUCT_QUERIES)
            rough[part] = np.argpartition(products(queries[part], centroids), -ask, axis=1)[:, -ask:]
    quantizer.compute_distance_subset(
        len(queries), faiss.swig_ptr(queries), ask, faiss.swig_ptr(scores), faiss.swig_ptr(rough)
    )
    order = np.lexsort((rough, -scores))[:, :count]
    of_query = np.arange(len(queries))[:, None]
    return rough[of_query, order], scores[of_query, order]


def products(queries: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(Q, lists) dot products, in pieces of `PRODUCT` multiplications."""
    lists, dimension = centroids.shape
    # A power of two, as numbers of lists mostly are.
    width = 1 << max(1, PRODUCT // (len(queries) * dimension)).bit_length() - 1
    whole = lists // width
    pieces = centroids[: whole * width].reshape(whole, width, dimension)
    made = np.matmul(queries, pieces.transpose(0, 2, 1)).swapaxes(0, 1).reshape(len(queries), -1)
    if whole * width == lists:
        return made
    return np.concatenate((made, queries @ centroids[whole * width :].T), axis=1)
