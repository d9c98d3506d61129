"""Which vectors of a shard are of passages that are not deleted, with what every scan asks about them.

In: a bool for each vector. Out: how many of a range live, and FAISS's bitmap of them, each made once: a version's
deletions never change.
"""

from __future__ import annotations

import numpy as np


class Living:
    """Of one shard in one version of its index. Thread-safe: what two threads make at once is equal.

    It keeps as much as it is asked for: of the blocks of each language's range a bit a vector.
    """

    def __init__(self, there: np.ndarray) -> None:
        """`there`: (N,) bool."""
        self._there = there
        self._counts: dict[tuple[int, int], int] = {}
        self._bits: dict[tuple[int, int], np.ndarray] = {}

    def count(self, start: int, end: int) -> int:
        """Of the vectors from `start` to before `end`."""
        count = self._counts.get((start, end))
        if count is None:
            count = self._counts[start, end] = int(np.count_nonzero(self._there[start:end]))
        return count

    def bits(self, start: int, end: int) -> np.ndarray:
        """A bit for each of the vectors from `start` to before `end`, the first the lowest of the first byte."""
        bits = self._bits.get((start, end))
        if bits is None:
            bits = self._bits[start, end] = np.packbits(self._there[start:end], bitorder="little")
        return bits
