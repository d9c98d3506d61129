"""Exact search: the best rows by dot product, the same alone or in a batch, whatever rows are beside them.

In: unit vectors of queries and of stored passages. Out: scores and rows. FAISS sums in an order that depends on the
batch, so its scores only choose candidates, with a margin; a score is then summed pair by pair.

Q queries, D dimensions, C candidates, N stored vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np

from hybrid_ir.index.searching.living import Living

MARGIN = 16
"""Candidates beyond k that FAISS's scores choose."""
TIE = 1e-5
"""Two of FAISS's scores of unit vectors closer than this may be out of order (float32 errs by about 1e-7)."""
BLOCK = 16_384


def exact_scores(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(..., C) float32: dot products of queries (..., D) with vectors (..., C, D), each summed on its own, whatever is
    beside it (einsum's plain loop, not BLAS)."""
    return np.einsum("...cd,...d->...c", as_float32(vectors), queries)


def as_float32(vectors: np.ndarray) -> np.ndarray:
    """Equal numbers in float32, of float16 or float32. numpy's own conversion takes three times as long.

    The bits of a float16 are put at their places of a float32 (IEEE 754), whose exponent then is 112 too small.
    """
    if vectors.dtype == np.float32:
        return vectors
    bits = vectors.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x7000_0001)  # 0x8FFF_FFFF: the copies of the sign bit go
    floats = bits.view(np.float32)
    floats *= np.float32(2.0**112)
    if floats.max(initial=0) >= 2**16 or floats.min(initial=0) <= -(2**16):
        return vectors.astype(np.float32)  # infinities and NaN, which this makes numbers of
    return floats


def score_rows(queries: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(Q, C) float32: exact scores of queries (Q, D) with their rows (Q, C) of vectors (N, D); row -1 is the last."""
    scores = np.empty(rows.shape, np.float32)
    step = max(1, 1024 // max(1, rows.shape[1]))  # what is gathered stays in the processor's cache
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        scores[part] = exact_scores(queries[part], vectors.take(rows[part], axis=0, mode="wrap"))
    return scores


def exact_top(
    queries: np.ndarray,
    vectors: np.ndarray,
    rows: Sequence[tuple[int, int]] | np.ndarray,
    k: int,
    living: Living | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(scores, rows) of the k best of `rows` (ranges, or an array of row numbers) for each of the queries (Q, D).

    `living` tells which rows of the ranges count; None = all. In no order. Fewer than k where there are
    fewer rows; more where rows tie with the k-th: the caller cuts, by id.
    """
    if isinstance(rows, np.ndarray):
        count = len(rows)
    else:
        count = sum(end - start if living is None else living.count(start, end) for start, end in rows)
    results = [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(queries)
    open_ = np.arange(len(queries))
    ask = min(count, k + MARGIN)
    while len(open_) and count:
        asked = queries[open_]
        rough, found = _scan_top(asked, vectors, rows, ask, living)
        scores = score_rows(asked, vectors, found)
        kth = np.partition(scores, -k, axis=1)[:, -k] if ask >= k else np.full(len(open_), -np.inf, np.float32)
        # A row that was not returned may score as high as the k-th.
        unsure = (rough.min(axis=1) >= kth - TIE) & (ask < count)
        keep = scores >= kth[:, None]
        for n in np.flatnonzero(~unsure):
            results[open_[n]] = scores[n, keep[n]], found[n, keep[n]]
        open_ = open_[unsure]
        ask = min(count, ask * 8)
    return results


def _scan_top(
    queries: np.ndarray,
    vectors: np.ndarray,
    rows: Sequence[tuple[int, int]] | np.ndarray,
    ask: int,
    living: Living | None,
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, <= ask) FAISS's scores and rows of the best, block by block."""
    best: tuple[np.ndarray, np.ndarray] | None = None
    for block, numbers in _blocks(vectors, rows, len(queries), in_pieces=living is not None):
        bits, count = None, len(block)
        if living is not None and isinstance(numbers, int):
            part = numbers, numbers + len(block)
            count = living.count(*part)
            if not count:
                continue
            bits = None if count == len(block) else living.bits(*part)
        scores, places = _faiss_top(queries, block, min(ask, count), bits)
        found = (scores, places + numbers if isinstance(numbers, int) else numbers[places])
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
    vectors: np.ndarray, rows: Sequence[tuple[int, int]] | np.ndarray, queries: int, *, in_pieces: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray | int]]:
    """(vectors, their row numbers or the first of them): ranges as they lie, and pieces that are gathered.

    For several queries a range of float16 goes in pieces, which stay in the processor's cache from query to query.
    BLAS makes its own of float32. `in_pieces` cuts every range: where rows are deleted, only pieces with some are slow.
    """
    if isinstance(rows, np.ndarray):
        for start in range(0, len(rows), BLOCK):
            numbers = rows[start : start + BLOCK]
            yield vectors[numbers], numbers
        return
    for start, end in rows:
        step = BLOCK if in_pieces or (queries > 1 and vectors.dtype == np.float16) else max(1, end - start)
        for first in range(start, end, step):
            yield vectors[first : min(first + step, end)], first


def _faiss_top(
    queries: np.ndarray, block: np.ndarray, k: int, bits: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, k) FAISS's scores and places in the block. Neither kind of vectors is copied. `bits`, one for each vector of
    the block, leave out some; k are left."""
    selector = None
    if bits is not None:
        selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))  # its size is that of the bits, in bytes
    if block.dtype == np.float32:
        if selector is None:
            return faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)
        queries = np.ascontiguousarray(queries)
        scores, places = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        faiss.knn_inner_product(
            faiss.swig_ptr(queries), faiss.swig_ptr(block), block.shape[1], len(queries), len(block), k,
            faiss.swig_ptr(scores), faiss.swig_ptr(places), selector,
        )  # fmt: skip
        return scores, places
    # FAISS's codes of QT_fp16 are the float16 themselves, row by row.
    index: Any = faiss.IndexScalarQuantizer(block.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    nobody: Any = faiss.MaybeOwnedVectorUInt8()  # its owner is null: numpy owns the bytes, and outlives the search
    index.codes = nobody.create_view(faiss.swig_ptr(block.view(np.uint8)), block.nbytes, nobody.owner)
    index.ntotal = len(block)
    if selector is None:
        return index.search(queries, k)
    parameters: Any = faiss.SearchParameters()
    parameters.sel = selector
    return index.search(queries, k, params=parameters)
