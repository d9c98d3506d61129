"""What mining keeps on disk while it works: passages that may become negatives, and the vectors of all texts.

In: a pool, an encoder, a folder. Out: memory-mapped vectors by language, passages by their number. Memory holds
`WINDOW` texts with their vectors; the folder takes 4 bytes a dimension of every text, and the passages. Where several
machines encode, all of them must see the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from hybrid_ir.batches import encode_by_role, roles_of
from hybrid_ir.mining.corpus import Corpus
from hybrid_ir.mining.passage_file import PassageFile
from hybrid_ir.mining.pool import LanguagePool, Pool
from hybrid_ir.types import InputError, Passage

WINDOW = 16384
"""Texts encoded at a time: what the encoder sorts by length. Their vectors fill whole pages of a file, whatever the
dimension, so that two machines never write to one page."""
_ROWS = 4096  # passages copied at a time


class Encode(Protocol):
    """Texts of one language -> (texts, D) float32 unit vectors, in their order."""

    def __call__(self, texts: Sequence[str], *, role: str, languages: str) -> np.ndarray: ...


@dataclass(frozen=True)
class LanguageScratch:
    """The questions and passages of one language, in the order of its `LanguagePool`."""

    file: PassageFile
    entry_P: np.ndarray
    """Where each passage is in the file: those of the corpus come first there."""
    rows: int
    """How many questions there are."""
    path: Path
    """Its vectors are beside it, once they are there."""

    def passage(self, number: int) -> Passage:
        return self.file[int(self.entry_P[number])]

    def vectors_at(self, role: str) -> Path:
        return self.path.with_suffix(f".{role}")

    def vectors(self, role: str, dimensions: int) -> np.ndarray:
        """Those of all questions (role query) or of all passages (document)."""
        rows = self.rows if role == "query" else len(self.entry_P)
        # "c": torch takes no array that it must not write to; what is written stays in memory.
        return np.memmap(self.vectors_at(role), np.float32, "c", shape=(rows, dimensions))


def gather_passages(
    pool: Pool, corpus: Corpus | None, folder: Path, progress: Callable[[str, int], None]
) -> dict[str, LanguageScratch]:
    """Put the store's different passages of each language behind those of the corpus."""
    scratch, done = {}, 0
    for number, (language, part) in enumerate(pool.languages.items()):
        path = folder / f"{number}.passages"  # a manifest may call a language anything
        file = PassageFile(path) if corpus is None else corpus.parts[language].file
        before, stored = len(file), part.stored
        for start in range(0, stored, _ROWS):
            file.append(*_passages(pool, language, part, part.first_P[start : min(start + _ROWS, stored)]))
            progress("passages gathered", done + min(start + _ROWS, stored))
        done += stored
        entry_P = np.concatenate([before + np.arange(stored), part.first_P[stored:] - len(part.answer_R)])
        scratch[language] = LanguageScratch(file, entry_P, len(part.group_Q), path)
        for role in ("query", "document"):
            scratch[language].vectors_at(role).touch()
    return scratch


def _passages(pool: Pool, language: str, part: LanguagePool, first: np.ndarray) -> tuple[list[str], list[str]]:
    """Ids and texts of passages of the store, by where they come first."""
    groups = part.groups_of(first)
    nth = first - part.start_Q[np.searchsorted(part.group_Q, groups)]
    columns = (pool.texts(groups, f"{half}_{language}") for half in ("p_id", "p"))
    ids, texts = ([several[n] for several, n in zip(column, nth, strict=True)] for column in columns)
    return ids, texts


class Window(NamedTuple):
    """Texts that are encoded together: `first` to `end` of the questions or passages of a language."""

    language: str
    role: str
    first: int
    end: int


def windows_of(scratch: Mapping[str, LanguageScratch]) -> list[Window]:
    """All that is to be encoded. They depend on the texts alone, and so do the vectors, whoever makes them."""
    return [
        Window(language, role, first, min(first + WINDOW, rows))
        for language, part in scratch.items()
        for role, rows in (("query", part.rows), ("document", len(part.entry_P)))
        for first in range(0, rows, WINDOW)
    ]


class EncodeWindow:
    """A stage: the number of a window in, how many texts it has and the dimensions of their vectors out. Those are on
    disk then. `tasks`, by their source, are those that questions are of. Raises InputError for vectors that are not
    finite."""

    def __init__(
        self,
        pool: Pool,
        scratch: Mapping[str, LanguageScratch],
        windows: Sequence[Window],
        encode: Encode,
        tasks: Mapping[str, str],
    ) -> None:
        self._pool, self._scratch, self._windows, self._encode, self._tasks = pool, scratch, windows, encode, tasks

    def __call__(self, number: int) -> tuple[int, int]:
        language, role, first, end = self._windows[number]
        part = self._scratch[language]
        roles = [role] * (end - first)
        if role == "query":
            groups = self._pool.languages[language].group_Q[first:end]
            texts = self._pool.texts(groups, f"q_{language}")
            if self._tasks:
                roles = roles_of(self._pool.texts(groups, "group_id"), self._tasks)
        else:
            texts = [part.passage(n).text for n in range(first, end)]
        vectors = np.ascontiguousarray(encode_by_role(self._encode, texts, roles, language), np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise InputError(
                f"vectors of {len(texts)} texts are of shape {vectors.shape} or hold NaN or infinity; the encoder "
                "is damaged or overflowed: encode with evaluate.precision=fp32, or take another checkpoint"
            )
        with part.vectors_at(role).open("r+b") as file:
            file.seek(4 * first * vectors.shape[1])
            file.write(vectors.reshape(-1).view(np.uint8).data)
        return len(texts), vectors.shape[1]
