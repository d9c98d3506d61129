"""Tatoeba: whether a sentence's nearest neighbour in the other language is its translation; accuracy both ways.

In: line-parallel files, a pair a language with English. Out: a `TaskResult`.

Shape legend: `N` pairs, `D` dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hybrid_ir.data import checked_text, read_lines, tatoeba_files
from hybrid_ir.evaluation.ranking import Encode
from hybrid_ir.evaluation.tasks.result import TaskResult, per_query_table, task_counts
from hybrid_ir.types import InputError

MEASURES = ("accuracy_to_en", "accuracy_from_en")


class Pair(NamedTuple):
    """A sentence and its English translation, by line number from 1."""

    query_id: str
    text: str
    english: str


def load_tatoeba(folder: str, languages: Sequence[str] | None = None) -> dict[str, tuple[list[Pair], int]]:
    """By language, the pairs of `tatoeba.{xxx}-eng.{xxx,eng}` and how many were left out, as one side is empty.

    Without `languages`, files whose code no known language has are passed over.
    """
    pairs = {}
    for code, path in tatoeba_files(folder, languages).files.items():
        english_path = path.with_suffix(".eng")
        sides = [[checked_text(f"{p}:{n}", line.strip()) for n, line in read_lines(p)] for p in (path, english_path)]
        if len(sides[0]) != len(sides[1]):
            raise InputError(
                f"{path} has {len(sides[0])} lines, {english_path} has {len(sides[1])}; "
                "line-parallel files must have as many lines: copy them again"
            )
        rows = [Pair(f"{code}/{n}", *row) for n, row in enumerate(zip(*sides, strict=True), start=1)]
        kept = [pair for pair in rows if pair.text and pair.english]
        if not kept:
            raise InputError(f"{path} has no sentence with a translation; copy it again")
        pairs[code] = (kept, len(rows) - len(kept))
    return pairs


def measure_tatoeba(
    encode_query: Encode, encode_passage: Encode, pairs: Mapping[str, tuple[list[Pair], int]]
) -> TaskResult:
    """Whether a sentence's nearest neighbour among the file's sentences of the other language is its translation.

    Both directions: `accuracy_to_en` (XTREME-R's figure) searches the English sentences for a foreign one.
    """
    rows, counts = {}, {}
    for code, (kept, left_out) in pairs.items():
        texts, english = [pair.text for pair in kept], [pair.english for pair in kept]
        found = (
            nearest_is_own(encode_query(texts, code), encode_passage(english, "en")),
            nearest_is_own(encode_query(english, "en"), encode_passage(texts, code)),
        )
        rows[code] = ([pair.query_id for pair in kept], dict(zip(MEASURES, found, strict=True)))
        counts[code] = {"pairs": len(kept), "pairs with an empty side": left_out}
    return TaskResult(MEASURES, per_query_table(rows), task_counts(counts, ["pairs with an empty side"]))


def nearest_is_own(queries_ND: np.ndarray, passages_ND: np.ndarray) -> np.ndarray:
    """1.0 where row i's highest dot product is with passage i, else 0.0; of equal ones the first passage counts."""
    if queries_ND.shape != passages_ND.shape or not (np.isfinite(queries_ND).all() and np.isfinite(passages_ND).all()):
        raise InputError(f"need finite vectors of one shape, got {queries_ND.shape} and {passages_ND.shape}")
    scores_NN = queries_ND @ passages_ND.T
    nearest_NN = scores_NN == scores_NN.max(axis=1, keepdims=True)
    # Of several that are nearest any may come first.
    return nearest_NN.diagonal() / nearest_NN.sum(axis=1)
