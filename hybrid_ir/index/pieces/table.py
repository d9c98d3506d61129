"""Which vectors of a shard are of which passage, and which part of its text each stands for.

In: `pieces.npy` of a shard, (P, 3) int32: the row of a passage, its piece's first character, the character after its
last; sorted, so that the pieces of a passage follow each other. Out: vectors of rows, and rows of vectors.

All else of a shard goes by passages: its table, its languages, filters, ids, and what is deleted. Only what compares
vectors asks here. A shard without this file has a vector a passage.

P pieces, N passages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

PIECES = "pieces.npy"


class PieceTable:
    """The pieces of a shard's passages."""

    def __init__(self, table: np.ndarray, rows: int) -> None:
        """`table` is (P, 3). Raises ValueError where it is not that of `rows` passages."""
        if table.ndim != 2 or table.shape[1] != 3 or table.dtype != np.int32:
            raise ValueError(f"pieces of shape {table.shape} and type {table.dtype} are not (P, 3) of int32")
        self.owner = np.ascontiguousarray(table[:, 0])
        """(P,): the row of each piece's passage."""
        self._table = table
        self.starts = starts_of(self.owner, rows)
        """(N + 1,): the first piece of each passage, and their number."""
        if (np.diff(self.starts) < 1).any() or self.starts[-1] != len(table) or (np.diff(self.owner) < 0).any():
            raise ValueError(f"the pieces are not those of {rows} passages")

    def __len__(self) -> int:
        return len(self.owner)

    @cached_property
    def counts(self) -> np.ndarray:
        """(N,): pieces of each passage."""
        return np.diff(self.starts)

    def spans(self, pieces: np.ndarray) -> np.ndarray:
        """(len(pieces), 2): first character of each, and the character after its last."""
        return self._table[pieces, 1:]

    def ranges(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Of vectors, those of these ranges of rows."""
        return [(int(self.starts[start]), int(self.starts[end])) for start, end in ranges]

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of these rows, in their order."""
        return runs(self.starts[rows], self.starts[rows + 1])


def open_pieces(folder: Path, rows: int) -> PieceTable | None:
    """Those of the shard in this folder; None where it has a vector a passage. Raises ValueError for a file that holds
    something else, and OSError."""
    path = folder / PIECES
    return PieceTable(np.asarray(np.load(path, mmap_mode="r")), rows) if path.is_file() else None


def starts_of(owner: np.ndarray, rows: int) -> np.ndarray:
    """(rows + 1,): where in the sorted `owner` each row begins, and its length."""
    return np.searchsorted(owner, np.arange(rows + 1)).astype(np.int64)


def runs(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """All numbers from each start to before its end, one run behind the other."""
    counts = ends - starts
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())
