"""One shard: the best passages of its rows for each query, by exact scores. And the merge of several shards' answers.

Sharding must not show: any cut of the same passages gives the same ids and scores. Three rules make it so.
1. A score is the dot product of query and stored vector, summed pair by pair in one fixed order. BLAS sums in an order that
   depends on the batch, so its scores only choose candidates, with a margin.
2. Equal scores are ordered by global id. Where a tie may cross the cut, more candidates are asked for.
3. A lossy codec chooses the `depth(k)` best by its own scores over *all* shards; those are scored exactly. So a shard returns
   its `depth(k)` with both scores, and `merge` cuts by codec score before it orders by exact score.

Q queries, D dimensions, C candidates.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np

from hybrid_ir.index.folder import REBUILD, Manifest, ShardEntry, check_files
from hybrid_ir.index.passages import IndexedPassage, PassageTable
from hybrid_ir.storage import fetch
from hybrid_ir.types import InputError

MARGIN = 16
"""Candidates beyond k that BLAS scores choose."""
TIE = 1e-5
"""Two BLAS scores of unit vectors closer than this may be out of order (float32 errs by about 1e-7)."""
EXACT_BELOW = 20_000
"""A language filter that leaves fewer passages than this is scanned: an IVF visits too few lists to find them."""
BLOCK = 16_384
_MASKS = 64


class ShardQuery(NamedTuple):
    """What a search asks besides its vector. Hashable: queries with one filter are searched together."""

    k: int
    languages: tuple[str, ...] | None = None
    """None = all; otherwise sorted, without repeats."""
    metadata: tuple[tuple[str, str], ...] = ()
    """(key, canonical value) pairs that must all be equal."""


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


def depth(k: int) -> int:
    """Candidates of a lossy codec that are scored exactly."""
    return max(40, 4 * k)


def is_flat(codec: str) -> bool:
    return codec == "Flat"


@dataclass(frozen=True)
class Totals:
    """What every shard must know of the whole index, so that all of them decide alike."""

    codec: str
    nprobe: int
    languages: dict[str, int]

    def scans(self, query: ShardQuery) -> bool:
        """Whether a query is answered by an exact scan of what its filter leaves."""
        if is_flat(self.codec) or query.metadata:
            return True
        return query.languages is not None and self._left(query) < EXACT_BELOW

    def probes(self, query: ShardQuery, lists: int) -> int:
        """Lists to visit: more for a filter, by the share of the passages it leaves."""
        share = self._left(query) / max(1, sum(self.languages.values()))
        return min(lists, int(np.ceil(self.nprobe / max(share, 1e-9))))

    def _left(self, query: ShardQuery) -> int:
        names = self.languages if query.languages is None else query.languages
        return sum(self.languages.get(name, 0) for name in names)


class Shard:
    """A shard that is open for searching. Its files are memory-mapped, so replicas on one machine share them.

    Searching is thread-safe.
    """

    def __init__(self, folder: Path, entry: ShardEntry, totals: Totals, passages: PassageTable) -> None:
        self.entry = entry
        self.rows = entry.rows
        self.passages = passages
        self.totals = totals
        self.ids = np.asarray(np.load(folder / "ids.npy", mmap_mode="r"))
        self._index: Any = faiss.read_index(str(folder / "vectors.faiss"), faiss.IO_FLAG_MMAP_IFC)
        self._masks: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()
        if is_flat(totals.codec):
            self.vectors = faiss.rev_swig_ptr(self._index.get_xb(), self.rows * self._index.d).reshape(self.rows, -1)
        else:
            # As plain arrays: numpy's memmap class costs microseconds at each access.
            self.vectors = np.asarray(np.load(folder / "vectors.f16.npy", mmap_mode="r"))
            quantizer: Any = faiss.downcast_index(self._index.quantizer)
            self._centroids = faiss.rev_swig_ptr(quantizer.get_xb(), quantizer.ntotal * quantizer.d)
            self._centroids = self._centroids.reshape(quantizer.ntotal, -1)
        if not (self.rows == len(self.ids) == self._index.ntotal == passages.rows == len(self.vectors)):
            raise InputError(f"the files of {folder} do not belong together: their row counts differ; {REBUILD}")

    @property
    def lists(self) -> int:
        """Inverted lists of the codec; 0 for Flat."""
        return 0 if is_flat(self.totals.codec) else len(self._centroids)

    def search(self, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> list[Found]:
        """Candidates of each query. vectors: (Q, D) float32, unit length."""
        found: list[Found | None] = [None] * len(queries)
        alike: dict[Any, list[int]] = {}
        for i, query in enumerate(queries):
            scans = self.totals.scans(query)
            # Lossy candidates depend on their number, so only queries with one depth go together.
            alike.setdefault((query.languages, query.metadata, scans, 0 if scans else depth(query.k)), []).append(i)
        for (languages, metadata, scans, codec_depth), members in alike.items():
            group = vectors[members]
            if scans:
                k = max(queries[i].k for i in members)
                results = self.scan(group, k, languages, metadata)
            else:
                results = self._probe(group, codec_depth, queries[members[0]])
            for i, result in zip(members, results, strict=True):
                found[i] = result
        return found  # type: ignore[return-value]

    def read(self, rows: Sequence[int]) -> list[IndexedPassage]:
        return [self.passages[row] for row in rows]

    def scan(
        self, vectors: np.ndarray, k: int, languages: tuple[str, ...] | None, metadata: tuple[tuple[str, str], ...]
    ) -> list[Found]:
        """The k best by exact score among the rows that pass."""
        rows = self._rows_where(languages, metadata) if metadata else self._ranges(languages)
        found = []
        for scores, best in exact_top(vectors, self.vectors, rows, k):
            order = np.lexsort((self.ids[best], -scores))[:k]
            scores, best = scores[order], best[order]
            found.append(Found(scores, scores, self.ids[best], best))
        return found

    def _probe(self, vectors: np.ndarray, wanted: int, query: ShardQuery) -> list[Found]:
        """The `wanted` best by codec score in the nearest lists, with their exact scores."""
        index = self._index
        nprobe = self.totals.probes(query, len(self._centroids))
        lists, list_scores = _nearest_lists(vectors, self._centroids, nprobe)
        selector = None if query.languages is None else self._selector(query.languages)
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe, parameters.sel = nprobe, selector
        found: list[Found | None] = [None] * len(vectors)
        open_ = np.arange(len(vectors))
        ask = min(self.rows, wanted + 32)
        while len(open_):
            codec_scores = np.empty((len(open_), ask), dtype=np.float32)
            rows = np.empty((len(open_), ask), dtype=np.int64)
            x, keys, coarse = (np.ascontiguousarray(a[open_]) for a in (vectors, lists, list_scores))
            index.search_preassigned_c(
                len(x), faiss.swig_ptr(x), ask, faiss.swig_ptr(keys), faiss.swig_ptr(coarse),
                faiss.swig_ptr(codec_scores), faiss.swig_ptr(rows), False, parameters,
            )  # fmt: skip
            again = []
            for i, scores, passing in zip(open_, codec_scores, rows, strict=True):
                # Codec scores are computed pair by pair, so a tie is an equal score: ask on until the cut is not in one.
                cut = min(wanted, ask) - 1
                if ask < self.rows and passing[-1] >= 0 and scores[-1] == scores[cut]:
                    again.append(i)
                    continue
                there = np.flatnonzero(passing >= 0)
                order = there[np.lexsort((self.ids[passing[there]], -scores[there]))][:wanted]
                best = passing[order]
                found[i] = Found(scores[order], exact_scores(vectors[i], self.vectors[best]), self.ids[best], best)
            open_ = np.asarray(again, dtype=np.int64)
            ask = min(self.rows, ask * 4)
        return found  # type: ignore[return-value]

    def _ranges(self, languages: tuple[str, ...] | None) -> list[tuple[int, int]]:
        if languages is None:
            return [(0, self.rows)]
        return [self.entry.languages[name] for name in languages if name in self.entry.languages]

    def _rows_where(self, languages: tuple[str, ...] | None, metadata: tuple[tuple[str, str], ...]) -> np.ndarray:
        def make() -> np.ndarray:
            rows = self.passages.where(metadata)
            if languages is not None:
                parts = [rows[np.searchsorted(rows, a) : np.searchsorted(rows, b)] for a, b in self._ranges(languages)]
                rows = np.sort(np.concatenate(parts)) if parts else rows[:0]
            return rows

        return self._cached((languages, metadata), make)

    def _selector(self, languages: tuple[str, ...]) -> Any:
        def make() -> tuple[Any, np.ndarray]:
            mask = np.zeros(-(-self.rows // 8) * 8, dtype=bool)
            for start, end in self._ranges(languages):
                mask[start:end] = True
            bits = np.packbits(mask, bitorder="little")
            # The selector points into `bits`, which must live as long.
            return faiss.IDSelectorBitmap(self.rows, faiss.swig_ptr(bits)), bits

        return self._cached(languages, make)[0]

    def _cached(self, key: Any, make: Any) -> Any:
        with self._lock:
            if key in self._masks:
                self._masks.move_to_end(key)
                return self._masks[key]
        value = make()
        with self._lock:
            self._masks[key] = value
            if len(self._masks) > _MASKS:
                self._masks.popitem(last=False)
        return value


def open_shard(index: str | Path, manifest: Manifest, number: int, *, checksums: bool = True) -> Shard:
    """Shard `number`, its files checked. Raises InputError that names the file at fault and what to do."""
    entry = manifest.shards[number]
    check_files(index, entry.files, checksums=checksums)
    folder = Path(fetch(str(index))) / "shards" / entry.name
    totals = Totals(manifest.codec, manifest.nprobe, manifest.languages)
    try:
        return Shard(folder, entry, totals, PassageTable(folder / "passages.arrow"))
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} cannot be opened ({' '.join(str(error).split())[:200]}); {REBUILD}") from error


def merge(parts: Sequence[Found | None], k: int, lossy: bool) -> list[Hit]:
    """The k best of several shards' candidates for one query. A shard that did not answer is None.

    Ordered by exact score, then by global id. With a lossy codec only the `depth(k)` best by codec score take part.
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
    keep = np.lexsort((ids, -codec_scores))[: depth(k)]
    shards, scores, ids, rows = shards[keep], scores[keep], ids[keep], rows[keep]
    order = np.lexsort((ids, -scores))[:k]
    return [Hit(*hit) for hit in zip(*(a[order].tolist() for a in (shards, rows, ids, scores)), strict=True)]


def exact_scores(query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(C,) float32: dot products of one query (D,) with vectors (C, D), each row summed on its own, whatever rows are beside it
    (einsum's plain loop, not BLAS)."""
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


def _nearest_lists(queries: np.ndarray, centroids: np.ndarray, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
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
