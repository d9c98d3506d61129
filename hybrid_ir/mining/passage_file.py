"""Passages on disk, read by their number. In: ids and texts. Out: the same. Memory holds 16 bytes of each."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.types import Passage


class PassageFile:
    """A file that passages are put behind each other in. Picklable: each process opens it for itself."""

    def __init__(self, path: Path, end: Any = None) -> None:
        self._path = path
        self._end: Any = array("q", [0]) if end is None else end
        self._bytes: np.ndarray | None = None

    def __reduce__(self):
        return PassageFile, (self._path, np.asarray(self._end))

    def __len__(self) -> int:
        return len(self._end) // 2

    def append(self, doc_ids: Sequence[str], texts: Sequence[str]) -> None:
        with self._path.open("ab") as file:
            for value in (each for pair in zip(doc_ids, texts, strict=True) for each in pair):
                self._end.append(self._end[-1] + file.write(value.encode("utf-8")))

    def close(self) -> None:
        """Let go of the file. Who reads it next opens it again."""
        self._bytes = None

    def __getitem__(self, number: int) -> Passage:
        if self._bytes is None:
            self._bytes = np.memmap(self._path, np.uint8, "r")
        a, b, c = self._end[2 * number : 2 * number + 3]
        return Passage(self._bytes[a:b].tobytes().decode("utf-8"), self._bytes[b:c].tobytes().decode("utf-8"))
