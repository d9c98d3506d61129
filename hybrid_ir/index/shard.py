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
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from hybrid_ir.index.filters.form import Filter
from hybrid_ir.index.filters.rows import passing
from hybrid_ir.index.folder import REBUILD, Manifest, ShardEntry, check_files, is_lists, local_files
from hybrid_ir.index.passage_table import PassageTable
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.pieces.best import best_by_codec, best_passages, score_passages
from hybrid_ir.index.pieces.table import open_pieces
from hybrid_ir.index.query import Found, ShardQuery, Stored, Totals, depth, is_flat
from hybrid_ir.index.searching.exact import exact_top, score_rows
from hybrid_ir.index.searching.lists import codec_best
from hybrid_ir.index.searching.living import Living
from hybrid_ir.index.searching.nearest import NearestLists
from hybrid_ir.index.searching.recent import Recent
from hybrid_ir.index.searching.threads import in_parts
from hybrid_ir.index.terms.found import found_by_words
from hybrid_ir.index.terms.written import open_terms
from hybrid_ir.index.tombstones import living_rows
from hybrid_ir.types import InputError

_MASKS = 64


class Shard:
    """A shard that is open for searching, by many threads. Its files are mapped, so a machine's replicas share them."""

    def __init__(
        self,
        folder: Path,
        entry: ShardEntry,
        totals: Totals,
        passages: PassageTable,
        nearest: NearestLists,
        living: np.ndarray | None = None,
    ) -> None:
        """`living`, (rows,) bool: what is not deleted; None = nothing is."""
        self.entry = entry
        self.living = living
        self.rows = entry.rows
        self.passages = passages
        self.totals = totals
        self.pieces = open_pieces(folder, self.rows)  # None: vector n is that of row n
        self.postings = open_terms(folder, self.rows)
        self._alive = None if living is None else Living(living if self.pieces is None else living[self.pieces.owner])
        self.ids = np.asarray(np.load(folder / "ids.npy", mmap_mode="r"))
        self.index: Any = faiss.read_index(str(folder / "vectors.faiss"), faiss.IO_FLAG_MMAP_IFC)
        self._masks = Recent(_MASKS)
        self._nearest = nearest
        if is_flat(totals.codec):
            count = self.index.ntotal
            self.vectors = faiss.rev_swig_ptr(self.index.get_xb(), count * self.index.d).reshape(count, -1)
        else:
            # As plain arrays: numpy's memmap class costs microseconds at each access.
            self.vectors = np.asarray(np.load(folder / "vectors.f16.npy", mmap_mode="r"))
            self.index.parallel_mode = 3  # by default `search_preassigned` takes one thread
            self._quantizer: Any = faiss.downcast_index(self.index.quantizer)
        vectors = self.rows if self.pieces is None else len(self.pieces)
        if not (self.rows == len(self.ids) == passages.rows and self.index.ntotal == len(self.vectors) == vectors):
            raise InputError(f"the files of {folder} do not belong together: their row counts differ; {REBUILD}")

    @property
    def lists(self) -> int:
        """Inverted lists of the codec; 0 for Flat."""
        return 0 if is_flat(self.totals.codec) else self._quantizer.ntotal

    def search(self, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> list[Found]:
        """Candidates of each query. vectors: (Q, D) float32, unit length."""
        found: list[Found | None] = [None] * len(queries)
        alike: dict[Any, list[int]] = {}
        for i, query in enumerate(queries):
            if query.words is not None:
                found[i] = found_by_words(self, query)
                continue
            scans = self.totals.scans(query)
            # Lossy candidates depend on their number, so only queries with one depth go together.
            candidates = 0 if scans else depth(query.among or query.k, self.totals.candidates)
            alike.setdefault((query.languages, query.where, scans, candidates), []).append(i)
        for (languages, where, scans, codec_depth), members in alike.items():
            group = vectors[members]
            if scans:
                k = max(queries[i].k for i in members)
                results = self.scan(group, k, languages, where)
            else:
                results = self._probe(group, codec_depth, queries[members[0]])
            for i, result in zip(members, results, strict=True):
                found[i] = result
        return found  # type: ignore[return-value]

    def read(self, rows: Sequence[int]) -> list[IndexedPassage]:
        return [self.passages[row] for row in rows]

    def labels(self, rows: Sequence[int], key: str) -> list[tuple[str, str | None]]:
        """(doc_id, value of a metadata key) of each row; the value is its JSON, None where there is none."""
        return self.passages.labels(rows, key)

    def find(self, doc_id: str) -> Stored | None:
        """The passage with this doc_id, if it is in this shard; an index has no doc_id twice, but for deleted ones."""
        row = self.passages.find(doc_id)
        if row is None or (self.living is not None and not self.living[row]):
            return None
        if self.pieces is not None and self.pieces.counts[row] > 1:
            return Stored(row, self.passages[row], None)
        vector = np.array(self.vectors[self.first(row)], dtype=np.float32)
        if self.vectors.dtype != np.float32:
            vector /= np.linalg.norm(vector)
        return Stored(row, self.passages[row], vector)

    def first(self, rows: Any) -> Any:
        """Numbers of the first vectors of these rows."""
        return rows if self.pieces is None else self.pieces.starts[rows]

    def scan(self, vectors: np.ndarray, k: int, languages: tuple[str, ...] | None, where: Filter | None) -> list[Found]:
        """The k best by exact score among the rows that pass."""
        rows, found = self.passing(languages, where), []
        living = self._alive if where is None else None
        if self.pieces is not None:
            parts = best_passages(vectors, self.vectors, self.pieces, rows, k, living)
            return [self._found(scores, scores, best, k) for scores, best in parts]
        for scores, best in exact_top(vectors, self.vectors, rows, k, living):
            order = np.lexsort((self.ids[best], -scores))[:k]
            scores, best = scores[order], best[order]
            found.append(Found(scores, scores, self.ids[best], best))
        return found

    def passing(self, languages: tuple[str, ...] | None, where: Filter | None) -> list[tuple[int, int]] | np.ndarray:
        """The living rows that pass a filter; without one ranges of rows, deleted ones too."""
        return self._ranges(languages) if where is None else self._rows_where(languages, where)

    def _found(self, codec_scores: np.ndarray, scores: np.ndarray, best: np.ndarray, k: int | None = None) -> Found:
        """The k best of the passages that these pieces are of, one of each; None = all."""
        assert self.pieces is not None
        rows = self.pieces.owner[best].astype(np.int64)
        order = np.lexsort((self.ids[rows], -scores))[:k]
        spans = self.pieces.spans(best[order])
        return Found(codec_scores[order], scores[order], self.ids[rows[order]], rows[order], spans)

    def _probe(self, vectors: np.ndarray, wanted: int, query: ShardQuery) -> list[Found]:
        """The `wanted` best by codec score in the nearest lists, with their exact scores."""
        parts = in_parts(len(vectors), lambda part: self._probe_part(vectors[part], wanted, query))
        return parts[0] if len(parts) == 1 else [found for part in parts for found in part]

    def _probe_part(self, vectors: np.ndarray, wanted: int, query: ShardQuery) -> list[Found]:
        lists, list_scores = self._nearest_lists(vectors, wanted, query)
        parameters = self._parameters(lists.shape[1], query.languages)
        if self.pieces is not None:
            each = zip(vectors[:, None], lists[:, None], list_scores[:, None], strict=True)
            return [self._probe_pieces(*one, wanted, parameters) for one in each]
        ask = min(self.rows, wanted + 1)
        codec_scores, rows = codec_best(self.index, vectors, lists, list_scores, ask, parameters)
        if ask > wanted:
            # Codec scores are computed pair by pair, so a tie is an equal score: where the first that is left out ties
            # with the last that is not, the ids say which of them are wanted.
            for n in np.flatnonzero((codec_scores[:, wanted - 1] == codec_scores[:, wanted]) & (rows[:, wanted] >= 0)):
                one = slice(n, n + 1)
                codec_scores[n, :wanted], rows[n, :wanted] = self._best_of_ties(
                    vectors[one], lists[one], list_scores[one], wanted, parameters
                )
            codec_scores, rows = codec_scores[:, :wanted], rows[:, :wanted]
        scores, ids = score_rows(vectors, self.vectors, rows), self.ids[rows]
        short = rows[:, -1].min() < 0
        if short:  # the lists held fewer: -1 stands at the end
            scores[rows < 0] = -np.inf
        order = np.lexsort((ids, -scores))
        queries = np.arange(len(vectors))[:, None]
        kept = [values[queries, order] for values in (codec_scores, scores, ids, rows)]
        if not short:
            return list(map(Found, *kept))
        counts = np.count_nonzero(rows >= 0, axis=1).tolist()
        return [Found(*(values[n, :count] for values in kept)) for n, count in enumerate(counts)]

    def _probe_pieces(
        self, vector: np.ndarray, lists: np.ndarray, list_scores: np.ndarray, wanted: int, parameters: Any
    ) -> Found:
        """Of one query (1, D): the `wanted` passages of the best pieces by codec score, with their exact scores."""
        assert self.pieces is not None

        def best_pieces(ask: int) -> tuple[np.ndarray, np.ndarray]:
            scores, pieces = codec_best(self.index, vector, lists, list_scores, ask, parameters)
            return scores[0], pieces[0]

        codec_scores, rows = best_by_codec(best_pieces, self.pieces, self.ids, wanted)
        scores, best = score_passages(vector[0], self.vectors, self.pieces, rows)
        return self._found(codec_scores, scores, best)

    def _best_of_ties(
        self, vector: np.ndarray, lists: np.ndarray, list_scores: np.ndarray, wanted: int, parameters: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """(wanted,) codec scores and rows of one query whose ties at the cut go by id: more and more are asked for,
        until the cut ties with nothing that was left out."""
        ask = wanted
        while True:
            ask = min(self.rows, ask * 4)
            codec_scores, rows = (
                values[0] for values in codec_best(self.index, vector, lists, list_scores, ask, parameters)
            )
            if ask == self.rows or rows[-1] < 0 or codec_scores[-1] != codec_scores[wanted - 1]:
                there = rows >= 0
                codec_scores, rows = codec_scores[there], rows[there]
                order = np.lexsort((self.ids[rows], -codec_scores))[:wanted]
                return codec_scores[order], rows[order]

    def _parameters(self, nprobe: int, languages: tuple[str, ...] | None) -> Any:
        def make() -> Any:
            parameters: Any = faiss.SearchParametersIVF()
            parameters.nprobe = nprobe
            if languages is not None or self.living is not None:
                selector, bits = self._selector(languages)
                parameters.sel = selector
                # FAISS only points to the selector, and the selector to its bits: they live as long as what points.
                parameters.kept = selector, bits
            return parameters

        return self._masks.get((nprobe, languages), make)

    def _nearest_lists(self, vectors: np.ndarray, wanted: int, query: ShardQuery) -> tuple[np.ndarray, np.ndarray]:
        """(Q, lists to visit) numbers and scores; every shard visits the same."""
        nprobe, holds = self.totals.probes(query, self.lists), self.totals.in_lists(query)
        enough = 0 if holds is None else min(self.totals.enough(wanted), int(holds.sum()))
        return self._nearest.that_hold(enough, holds, vectors, self._quantizer, nprobe)

    def _ranges(self, languages: tuple[str, ...] | None) -> list[tuple[int, int]]:
        if languages is None:
            return [(0, self.rows)]
        return [self.entry.languages[name] for name in languages if name in self.entry.languages]

    def _rows_where(self, languages: tuple[str, ...] | None, where: Filter) -> np.ndarray:
        def make() -> np.ndarray:
            rows = self.passages.where(partial(passing, where))
            return rows if self.living is None else rows[self.living[rows]]

        # Kept for all languages: a policy asks for the same filter once for each stratum of them.
        rows = self._masks.get((None, where), make)
        if languages is None:
            return rows
        ends = np.searchsorted(rows, sorted(self._ranges(languages)))
        parts = [rows[start:end] for start, end in ends]
        return parts[0] if len(parts) == 1 else np.concatenate([rows[:0], *parts])

    def _selector(self, languages: tuple[str, ...] | None) -> tuple[Any, np.ndarray]:
        def make() -> tuple[Any, np.ndarray]:
            rows = np.zeros(self.rows, dtype=bool)
            for start, end in self._ranges(languages):
                rows[start:end] = True if self.living is None else self.living[start:end]
            bits = np.packbits(rows if self.pieces is None else rows[self.pieces.owner], bitorder="little")
            return faiss.IDSelectorBitmap(len(self.vectors), faiss.swig_ptr(bits)), bits

        return self._masks.get(languages, make)


def open_shard(
    index: str | Path, manifest: Manifest, number: int, *, checksums: bool = True, nearest: NearestLists | None = None
) -> Shard:
    """Shard `number`, its files checked. `nearest` is that of this index' other shards in this process.

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
        known = (manifest.codec, manifest.nprobe, manifest.languages, manifest.candidates)
        totals = Totals(*known, counts, manifest.pieces)
        passages, living = PassageTable(folder / "passages.arrow"), living_rows(index, entry)
        return Shard(folder, entry, totals, passages, nearest or NearestLists(), living)
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} cannot be opened ({' '.join(str(error).split())[:200]}); {REBUILD}") from error
