"""One shard that is open for searching: the best passages of its rows for each query, by exact scores.

In: unit vectors of queries, and what each asks besides. Out: candidates, for `query.merge` to make one answer of.

Sharding must not show: any cut of the same passages gives the same ids and scores. Three rules make it so.
1. A score is the dot product of query and stored vector, summed pair by pair in one fixed order (see `exact`).
2. Equal scores are ordered by global id. Where a tie may cross the cut, more candidates are asked for.
3. A lossy codec chooses the `depth(k)` best by its own scores over *all* shards; those are scored exactly. So a shard
   returns its `depth(k)` with both scores, and `merge` cuts by codec score before it orders by exact score.

Q queries, D dimensions, C candidates.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from hybrid_ir.index.exact import exact_scores, exact_top, nearest_lists
from hybrid_ir.index.folder import REBUILD, Manifest, ShardEntry, check_files
from hybrid_ir.index.passages import IndexedPassage, PassageTable
from hybrid_ir.index.query import Found, ShardQuery, depth, is_flat
from hybrid_ir.storage import fetch
from hybrid_ir.types import InputError

EXACT_BELOW = 20_000
"""A language filter that leaves fewer passages than this is scanned: an IVF visits too few lists to find them."""
_MASKS = 64


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
        lists, list_scores = nearest_lists(vectors, self._centroids, nprobe)
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
                # Codec scores are computed pair by pair, so a tie is an equal score: ask on until it is not cut.
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
