"""Postings: which passages have a term, and how often. In: texts. Out: arrays, one stretch of them a term.

Terms are those of `words.words_of`: casefolded words in their compatibility form, and pairs of neighbouring characters
in the scripts that put no space between words. Lucene's CJKBigramFilter makes pairs of Han, Hiragana, Katakana and
Hangul; here they are made of Thai, Lao, Khmer and Burmese too, and not of Hangul, which has spaces.

N passages, T terms, P postings.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from hybrid_ir.words import words_of

TOGETHER = 4096
"""Texts whose words are counted at a time."""


class TermTable(Sequence[bytes]):
    """Terms as UTF-8, each once, in the order of their bytes, which is that of their code points. T terms."""

    def __init__(self, starts: np.ndarray, data: bytes | memoryview) -> None:
        """`starts` (T + 1,) int64: where in `data` each begins, and where the last ends."""
        self.starts, self.data = starts, memoryview(data)
        self._starts = np.ascontiguousarray(starts).data  # whose items cost a third of numpy's

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: int) -> bytes:  # type: ignore[override]
        return bytes(self.data[self._starts[place] : self._starts[place + 1]])

    def find(self, term: str) -> int | None:
        """Its place, or None."""
        wanted = term.encode("utf-8", "surrogatepass")
        place = bisect_left(self, wanted)
        return place if place < len(self) and self[place] == wanted else None


class Postings(NamedTuple):
    """The terms of N passages. The postings of the term at place t are those from `starts[t]` to before
    `starts[t + 1]`."""

    terms: TermTable
    starts: np.ndarray
    """(T + 1,) int64. Each term has a posting at least."""
    rows: np.ndarray
    """(P,) int32: numbers of the passages, ascending within a term."""
    frequencies: np.ndarray
    """(P,) uint8, uint16 or uint32, the smallest that holds all: how often the passage has the term."""
    lengths: np.ndarray
    """(N,) int32: words of each passage, repeated ones too."""

    def counts(self, living: np.ndarray | None = None) -> np.ndarray:
        """(T,) int64: passages that have each term, of those that `living`, (N,) bool, leaves; None = all."""
        if living is None:
            return np.diff(self.starts)
        if not len(self.terms):
            return np.zeros(0, np.int64)
        return np.add.reduceat(living[self.rows], self.starts[:-1], dtype=np.int64)


def make_postings(texts: Iterable[str]) -> Postings:
    """The postings of all the texts, in their order. Equal texts give equal bytes. Holds all of it in memory: 13 bytes
    a posting at its peak, and the different terms."""
    numbers: dict[str, int] = {}
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    lengths, first, waiting = [np.empty(0, np.int32)], 0, iter(texts)
    while some := [words_of(text) for text in islice(waiting, TOGETHER)]:
        counts = np.fromiter(map(len, some), np.int32, len(some))
        tokens = np.fromiter(
            (numbers.setdefault(word, len(numbers)) for words in some for word in words), np.int64, int(counts.sum())
        )
        keys, times = np.unique(np.repeat(np.arange(len(some)) << 40, counts) | tokens, return_counts=True)
        parts.append(((keys & (1 << 40) - 1).astype(np.int32), (keys >> 40).astype(np.int32) + first, times))
        lengths.append(counts)
        first += len(some)
    words = sorted(numbers)
    place = np.empty(len(words), np.int32)  # of a term, by its number
    place[[numbers[word] for word in words]] = np.arange(len(words))
    empty = np.empty(0, np.int32)
    terms, rows, times = (np.concatenate([empty, *(part[n] for part in parts)]) for n in range(3))
    terms = place[terms]
    order = np.argsort(terms, kind="stable")  # so by row within a term
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    return Postings(
        TermTable(_starts_of(np.fromiter(map(len, encoded), np.int64, len(encoded))), b"".join(encoded)),
        _starts_of(np.bincount(terms, minlength=len(words))),
        rows[order].astype(np.int32),
        times[order].astype(np.min_scalar_type(int(times.max(initial=1)))),
        np.concatenate(lengths),
    )


def _starts_of(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
