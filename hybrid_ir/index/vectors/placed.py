"""Vectors that were made elsewhere take the place of the encoding stage: each is put beside its passage's text.

In: vectors in any order, and the fragments of the passages. Out: vectors in each fragment, as if it had been encoded.
They are matched by doc_id, or by row. Memory grows by 17 bytes a passage, and by one block of vectors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.index.fragments import FRAGMENT_ROWS, Fragments, save_array
from hybrid_ir.index.passage_table import PassageTable
from hybrid_ir.index.vectors.checks import as_unit, first_fault
from hybrid_ir.index.vectors.given import Block, GivenVectors
from hybrid_ir.storage import write_json
from hybrid_ir.types import InputError, key64

NAMED = 3
"""doc_ids that an error names."""


def place_vectors(
    given: GivenVectors, fragments: Fragments, build: Path, progress: Callable[[str, int], None]
) -> dict[str, Any]:
    """Put every vector beside its passage; what the index's manifest says of them: where they are from, the id of their
    encoder's space or None where the user answers for it, and how many were not of unit length, and are now.

    Raises InputError for a vector that is NaN, infinite or zero, for a doc_id that comes twice, and where passages and
    vectors are not the same ones.
    """
    marker = build / "vectors.json"
    if marker.is_file():
        return json.loads(marker.read_text(encoding="utf-8"))
    if given.by_row:
        _check_rows(given, fragments)
    row_of = _RowsByDocId(fragments)
    seen, cut = np.zeros(fragments.rows, dtype=bool), np.zeros(fragments.rows, dtype=bool)
    unknown: list[str] = []
    total = superfluous = normalised = 0
    partials = [_Partial(fragments, number, given.dimension) for number in range(len(fragments.counts))]
    for block in given.blocks():
        total += len(block.vectors)
        rows = _rows_of(block, row_of)
        known = rows >= 0
        superfluous += int((~known).sum())
        if block.ids is not None:
            unknown += [block.ids[i] for i in np.flatnonzero(~known)[:NAMED].tolist()]
        _refuse_faults(given, block, fragments)
        _refuse_twice(given, block, rows, seen)
        vectors, other = as_unit(block.vectors[known])
        normalised += other
        rows = rows[known]
        seen[rows] = True
        if block.cut is not None:
            cut[rows] = block.cut[known]
        for number in np.unique(rows // FRAGMENT_ROWS).tolist():
            where = rows // FRAGMENT_ROWS == number
            partials[number].write(rows[where] % FRAGMENT_ROWS, vectors[where])
        progress("vectors", total)
    _refuse_others(given, fragments, seen, unknown[:NAMED], superfluous)
    for number, partial in enumerate(partials):
        start = number * FRAGMENT_ROWS
        save_array(fragments.path(number) / "cut.npy", cut[start : start + fragments.counts[number]])
        partial.finish()
    record = {"path": given.path, "space": given.space, "normalised": normalised}
    write_json(marker, record)
    return record


class _RowsByDocId:
    """Global row of a passage, by the hash of its doc_id, as those that come twice are found."""

    def __init__(self, fragments: Fragments) -> None:
        keys = np.empty(fragments.rows, dtype=np.uint64)
        at = 0
        for number in range(len(fragments.counts)):
            for ids in PassageTable(fragments.path(number) / "passages.arrow").column("doc_id"):
                keys[at : at + len(ids)] = [key64(doc_id) for doc_id in ids]
                at += len(ids)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def __call__(self, ids: Sequence[str]) -> np.ndarray:
        """(len(ids),) int64; -1 for a doc_id that no passage has."""
        wanted = np.asarray([key64(doc_id) for doc_id in ids], dtype=np.uint64)
        place = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[place] == wanted, self._order[place], -1)


class _Partial:
    """The vectors of a fragment while they come in any order; `finish` gives the file its name."""

    def __init__(self, fragments: Fragments, number: int, dimension: int) -> None:
        self._place = fragments.path(number) / "vectors.npy"
        self._path = self._place.with_name(".vectors.npy.partial")
        self._bytes = 4 * dimension
        with self._path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (fragments.counts[number], dimension)}
            np.lib.format.write_array_header_1_0(file, header)
            self._header = file.tell()

    def write(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Rows that follow each other are written at once. Written and not mapped: of a mapped file a full disk is a
        signal that kills, and no error."""
        content = vectors.astype("<f4", copy=False)
        with self._path.open("r+b") as file:
            for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
                file.seek(self._header + int(rows[run[0]]) * self._bytes)
                file.write(content[run[0] : run[-1] + 1].tobytes())

    def finish(self) -> None:
        os.replace(self._path, self._place)


def _rows_of(block: Block, row_of: _RowsByDocId) -> np.ndarray:
    if block.ids is None:
        return np.arange(block.start, block.start + len(block.vectors))
    return row_of(block.ids)


def _check_rows(given: GivenVectors, fragments: Fragments) -> None:
    """Raises InputError unless row n can only be the vector of passage n."""
    rejected = sum(fragments.rejected.values())
    if given.rows == fragments.rows and not rejected:
        return
    raise InputError(
        f"{given.path} has {given.rows:,} vectors without doc_ids, and of the passages {fragments.rows:,} are good and "
        f"{rejected:,} rejected{_reasons(fragments)}: which vector is whose cannot be told; put an ids.parquet with "
        "the column doc_id beside it, a row a vector"
    )


def _refuse_faults(given: GivenVectors, block: Block, fragments: Fragments) -> None:
    if (fault := first_fault(block.vectors)) is None:
        return
    row, what = fault
    if block.ids is not None:
        doc_id = block.ids[row]
    else:
        doc_id = next(fragments.passages(np.asarray([block.start + row]))).doc_id
    raise InputError(
        f"{given.path}: the vector of {doc_id!r:.80} (row {block.start + row}, counted from 0) is {what}; an index "
        "cannot hold it: leave this passage out of both, or encode it again"
    )


def _refuse_twice(given: GivenVectors, block: Block, rows: np.ndarray, seen: np.ndarray) -> None:
    first = np.zeros(len(rows), dtype=bool)
    first[np.unique(rows, return_index=True)[1]] = True
    twice = (rows >= 0) & (~first | seen[rows])
    if block.ids is not None and twice.any():
        row = int(np.flatnonzero(twice)[0])
        raise InputError(
            f"{given.path}: the doc_id {block.ids[row]!r:.80} comes again in row {block.start + row}, counted from 0; "
            "leave one vector of each"
        )


def _refuse_others(
    given: GivenVectors, fragments: Fragments, seen: np.ndarray, unknown: list[str], superfluous: int
) -> None:
    missing = np.flatnonzero(~seen)
    if not missing.size and not superfluous:
        return
    said = []
    if missing.size:
        names = [passage.doc_id for passage in fragments.passages(missing[:NAMED])]
        said.append(f"{missing.size:,} of {fragments.rows:,} passages have no vector ({_shown(names)})")
    if superfluous:
        said.append(f"{superfluous:,} vectors are of no passage that is indexed ({_shown(unknown)})")
    raise InputError(
        f"{given.path} and the passages do not belong together: {', and '.join(said)}{_reasons(fragments)}; give both "
        "of the same passages, or leave out --vectors"
    )


def _shown(names: list[str]) -> str:
    return ", ".join(f"{name!r:.60}" for name in names)


def _reasons(fragments: Fragments) -> str:
    if not fragments.rejected:
        return ""
    most = sorted(fragments.rejected.items(), key=lambda item: -item[1])[:NAMED]
    return (
        f" ({sum(fragments.rejected.values()):,} records were rejected: {'; '.join(f'{n} x {why}' for why, n in most)})"
    )
