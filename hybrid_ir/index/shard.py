"""One shard that is open for searching: the best passages of its rows for each query, by exact scores.

In: unit vectors of queries, and what each asks besides. Out: candidates, for `query.merge` to make one answer of.

Sharding must not show: any cut of the same passages gives the same ids and scores. Three rules make it so.
1. A score is the dot product of query and stored vector, summed pair by pair in one fixed order (see `exact`).
2. Equal scores are ordered by global id. Where a tie may cross the cut, more candidates are asked for.
3. A lossy codec chooses the `depth(k)` best by its own scores over *all* shards; those are scored exactly. So a shard
   returns its `depth(k)` with both scores, and `merge` cuts by codec score before it orders by exact score. Pages of
   one query are cut from one such order: they all name the number `among` in place of their k.

Q queries, D dimensions, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from hybrid_ir.index.exact import exact_top, nearest_lists, score_rows
from hybrid_ir.index.folder import REBUILD, Manifest, ShardEntry, check_files, is_lists, local_files
from hybrid_ir.index.passages import IndexedPassage, PassageTable
from hybrid_ir.index.query import Found, ShardQuery, Stored, depth, is_flat
from hybrid_ir.index.recent import Recent
from hybrid_ir.types import InputError

EXACT_BELOW = 20_000
"""A language filter that leaves fewer passages than this is scanned: an IVF visits too few lists to find them."""
_MASKS = 64
_BATCHES = 16


@dataclass(frozen=True, eq=False)
class Totals:
    """What every shard must know of the whole index, so that all of them decide alike."""

    codec: str
    nprobe: int
    languages: dict[str, int]
    counts: np.ndarray | None = None
    """(languages, lists): passages of each language, in the order of their names, in each inverted list of all shards;
    None in an index of format 1, and for Flat."""

    def scans(self, query: ShardQuery) -> bool:
        """Whether a query is answered by an exact scan of what its filter leaves."""
        if is_flat(self.codec) or query.metadata:
            return True
        return query.languages is not None and self._left(query) < EXACT_BELOW

    def probes(self, query: ShardQuery, lists: int) -> int:
        """Lists to visit: more for a filter, by the share of the passages it leaves."""
        share = self._left(query) / max(1, sum(self.languages.values()))
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

    def _left(self, query: ShardQuery) -> int:
        names = self.languages if query.languages is None else query.languages
        return sum(self.languages.get(name, 0) for name in names)


class Shard:
    """A shard that is open for searching. Its files are memory-mapped, so replicas on one machine share them.

    Searching is thread-safe.
    """

    def __init__(
        self, folder: Path, entry: ShardEntry, totals: Totals, passages: PassageTable, nearest: Recent
    ) -> None:
        self.entry = entry
        self.rows = entry.rows
        self.passages = passages
        self.totals = totals
        self.ids = np.asarray(np.load(folder / "ids.npy", mmap_mode="r"))
        self._index: Any = faiss.read_index(str(folder / "vectors.faiss"), faiss.IO_FLAG_MMAP_IFC)
        self._masks = Recent(_MASKS)
        self._nearest = nearest
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
            candidates = 0 if scans else depth(query.among or query.k)
            alike.setdefault((query.languages, query.metadata, scans, candidates), []).append(i)
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

    def find(self, doc_id: str) -> Stored | None:
        """The passage with this doc_id, if it is in this shard; an index has no doc_id twice."""
        row = self.passages.find(doc_id)
        if row is None:
            return None
        vector = np.array(self.vectors[row], dtype=np.float32)
        if self.vectors.dtype != np.float32:
            vector /= np.linalg.norm(vector)
        return Stored(row, self.passages[row], vector)

    def scan(
        self, vectors: np.ndarray, k: int, languages: tuple[str, ...] | None, metadata: tuple[tuple[str, str], ...]
    ) -> list[Found]:
        """The k best by exact score among the rows that pass."""
        rows = self._rows_where(languages, metadata) if metadata else self._ranges(languages)
        found = []
        for scores, best in exact_top(vectors, self.vectors, rows, k):
            if len(best) > k:
                order = np.lexsort((self.ids[best], -scores))[:k]
                scores, best = scores[order], best[order]
            found.append(Found(scores, scores, self.ids[best], best))
        return found

    def _probe(self, vectors: np.ndarray, wanted: int, query: ShardQuery) -> list[Found]:
        """The `wanted` best by codec score in the nearest lists, with their exact scores."""
        index = self._index
        lists, list_scores = self._nearest_lists(vectors, wanted, query)
        selector = None if query.languages is None else self._selector(query.languages)
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe, parameters.sel = lists.shape[1], selector
        found: list[Found | None] = [None] * len(vectors)
        open_ = np.arange(len(vectors))
        x, lists, list_scores = (np.ascontiguousarray(a) for a in (vectors, lists, list_scores))
        ask = min(self.rows, wanted + 32)
        while len(open_):
            codec_scores = np.empty((len(open_), ask), dtype=np.float32)
            rows = np.empty((len(open_), ask), dtype=np.int64)
            index.search_preassigned_c(
                len(x), faiss.swig_ptr(x), ask, faiss.swig_ptr(lists), faiss.swig_ptr(list_scores),
                faiss.swig_ptr(codec_scores), faiss.swig_ptr(rows), False, parameters,
            )  # fmt: skip
            # Codec scores are computed pair by pair, so a tie is an equal score: ask on until it is not cut.
            cut = min(wanted, ask) - 1
            again = (rows[:, -1] >= 0) & (codec_scores[:, -1] == codec_scores[:, cut]) & (ask < self.rows)
            if ask > wanted:
                # They come best first, and where the next has an equal score the ids say which of them are wanted.
                tied = (codec_scores[:, cut] == codec_scores[:, wanted]) & (rows[:, wanted] >= 0)
                for n in np.flatnonzero(tied):
                    order = np.lexsort((self.ids[rows[n]], -codec_scores[n]))
                    codec_scores[n], rows[n] = codec_scores[n, order], rows[n, order]
            codec_scores, rows = codec_scores[:, :wanted], rows[:, :wanted]
            scores, ids = score_rows(x, self.vectors, rows), self.ids[rows]
            # Where the lists held fewer, -1 stands at the end.
            counts = np.count_nonzero(rows >= 0, axis=1).tolist()
            for n, (i, cut_off) in enumerate(zip(open_.tolist(), again.tolist(), strict=True)):
                if not cut_off:
                    best = slice(counts[n])
                    found[i] = Found(codec_scores[n, best], scores[n, best], ids[n, best], rows[n, best])
            open_, x, lists, list_scores = (a[again] for a in (open_, x, lists, list_scores))
            ask = min(self.rows, ask * 4)
        return found  # type: ignore[return-value]

    def _nearest_lists(self, vectors: np.ndarray, wanted: int, query: ShardQuery) -> tuple[np.ndarray, np.ndarray]:
        """(Q, lists to visit) numbers and scores: as many as the gate found, and more until they hold `wanted` passages
        of the whole index, so that every shard visits the same. A list of number -1 is not visited."""
        nprobe, holds = self.totals.probes(query, self.lists), self.totals.in_lists(query)
        asked = vectors.tobytes()

        def nearest(count: int) -> tuple[np.ndarray, np.ndarray]:
            return self._nearest.get((count, asked), lambda: nearest_lists(vectors, self._centroids, count))

        lists, scores = nearest(nprobe)
        if holds is None:
            return lists, scores
        enough = min(wanted, int(holds.sum()))
        while holds[lists].sum(axis=1).min() < enough and lists.shape[1] < self.lists:
            lists, scores = nearest(min(self.lists, 2 * lists.shape[1]))
        if lists.shape[1] > nprobe:
            reached = holds[lists].cumsum(axis=1)
            visited = np.maximum(nprobe, 1 + (reached < enough).sum(axis=1))
            lists = np.where(np.arange(lists.shape[1]) < visited[:, None], lists, -1)
        return lists, scores

    def list_sizes(self) -> dict[str, np.ndarray]:
        """Language -> (lists,): its passages in each inverted list of this shard."""
        lists: Any = self._index.invlists
        names = sorted(self.entry.languages, key=lambda name: self.entry.languages[name])
        starts = [self.entry.languages[name][0] for name in names]
        sizes = np.zeros((len(names), self.lists), dtype=np.int64)
        for number in range(self.lists):
            if count := lists.list_size(number):
                rows = faiss.rev_swig_ptr(lists.get_ids(number), count)
                places = np.searchsorted(starts, rows, side="right") - 1
                sizes[:, number] = np.bincount(places, minlength=len(names))
        return dict(zip(names, sizes, strict=True))

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

        return self._masks.get((languages, metadata), make)

    def _selector(self, languages: tuple[str, ...]) -> Any:
        def make() -> tuple[Any, np.ndarray]:
            mask = np.zeros(-(-self.rows // 8) * 8, dtype=bool)
            for start, end in self._ranges(languages):
                mask[start:end] = True
            bits = np.packbits(mask, bitorder="little")
            # The selector points into `bits`, which must live as long.
            return faiss.IDSelectorBitmap(self.rows, faiss.swig_ptr(bits)), bits

        return self._masks.get(languages, make)[0]


def recent_lists() -> Recent:
    """Nearest lists that were found for the last batches: given to all shards of an index in one process, they are
    found once and not in each."""
    return Recent(_BATCHES)


def open_shard(
    index: str | Path, manifest: Manifest, number: int, *, checksums: bool = True, nearest: Recent | None = None
) -> Shard:
    """Shard `number`, its files checked. `nearest` is `recent_lists()` of this index' other shards in this process.

    Raises InputError that names the file at fault and what to do.
    """
    entry = manifest.shards[number]
    beside = {name: file for name, file in manifest.files.items() if is_lists(name)}
    # Apart: what is fetched of a shard stays the same whatever is added.
    for files in (entry.files, beside):
        check_files(index, files, checksums=checksums)
    folder = local_files(index, entry.files) / "shards" / entry.name
    try:
        counts = None
        for name in beside:
            counts = np.load(local_files(index, beside) / name)
        totals = Totals(manifest.codec, manifest.nprobe, manifest.languages, counts)
        return Shard(folder, entry, totals, PassageTable(folder / "passages.arrow"), nearest or recent_lists())
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} cannot be opened ({' '.join(str(error).split())[:200]}); {REBUILD}") from error
