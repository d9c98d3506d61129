"""What mining keeps on disk while it works: vectors, and the passages that may become negatives.

In: a pool, an encoder, a folder. Out: memory-mapped vectors by language, passages by their number. Memory holds
`WINDOW` texts with their vectors; the folder takes 4 bytes a dimension of every text, and the passages.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hybrid_ir.mining.pool import LanguagePool, Pool
from hybrid_ir.types import InputError, Passage

WINDOW = 16384  # texts encoded at a time: what the encoder sorts by length


class Encode(Protocol):
    """Texts of one language -> (texts, D) float32 unit vectors, in their order."""

    def __call__(self, texts: Sequence[str], *, role: str, languages: str) -> np.ndarray: ...


@dataclass(frozen=True)
class LanguageScratch:
    """The questions and passages of one language, in the order of its `LanguagePool`."""

    questions_QD: np.ndarray
    passages_PD: np.ndarray
    passages: PassageFile


class PassageFile:
    """Passages on disk, read one by one by their number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = array("q", [0])
        self._bytes: np.ndarray | None = None

    def append(self, doc_ids: Sequence[str], texts: Sequence[str]) -> None:
        with self._path.open("ab") as file:
            for value in (each for pair in zip(doc_ids, texts, strict=True) for each in pair):
                self._end.append(self._end[-1] + file.write(value.encode("utf-8")))

    def __getitem__(self, number: int) -> Passage:
        if self._bytes is None:
            self._bytes = np.memmap(self._path, np.uint8, "r")
        a, b, c = self._end[2 * number : 2 * number + 3]
        return Passage(self._bytes[a:b].tobytes().decode("utf-8"), self._bytes[b:c].tobytes().decode("utf-8"))


def encode_pool(pool: Pool, encode: Encode, folder: Path) -> dict[str, LanguageScratch]:
    """Encode every question and every different passage once. Raises InputError for vectors that are not finite."""
    scratch = {}
    for number, (language, part) in enumerate(pool.languages.items()):
        passages = PassageFile(folder / f"{number}.passages")  # a manifest may call a language anything

        def passage_texts(
            language: str = language, part: LanguagePool = part, passages: PassageFile = passages
        ) -> Iterator[list[str]]:
            for window in _windows(part.first_P):
                groups = part.groups_of(window)
                nth = window - part.start_Q[np.searchsorted(part.group_Q, groups)]
                ids, texts = (
                    [several[n] for several, n in zip(pool.texts(groups, f"{half}_{language}"), nth, strict=True)]
                    for half in ("p_id", "p")
                )
                passages.append(ids, texts)
                yield texts

        questions = (pool.texts(window, f"q_{language}") for window in _windows(part.group_Q))
        scratch[language] = LanguageScratch(
            _vectors(questions, encode, "query", language, folder / f"{number}.queries"),
            _vectors(passage_texts(), encode, "document", language, folder / f"{number}.documents"),
            passages,
        )
    return scratch


def _windows(groups: np.ndarray) -> Iterator[np.ndarray]:
    return (groups[start : start + WINDOW] for start in range(0, len(groups), WINDOW))


def _vectors(windows: Iterable[list[str]], encode: Encode, role: str, language: str, path: Path) -> np.ndarray:
    rows = dimension = 0
    with path.open("wb") as file:
        for texts in windows:
            vectors = np.ascontiguousarray(encode(texts, role=role, languages=language), np.float32)
            if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
                raise InputError(
                    f"vectors of {len(texts)} texts are of shape {vectors.shape} or hold NaN or infinity; the encoder "
                    "is damaged or overflowed: encode with evaluate.precision=fp32, or take another checkpoint"
                )
            vectors.tofile(file)
            rows, dimension = rows + len(vectors), vectors.shape[1]
    # "c": torch takes no array that it must not write to; what is written stays in memory.
    return np.memmap(path, np.float32, "c", shape=(rows, dimension))
