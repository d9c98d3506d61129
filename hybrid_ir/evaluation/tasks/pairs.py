"""Tasks on sentences that belong together: Tatoeba (find the translation) and XCOPA (choose the likelier sentence).

In: files in their upstream layout. Out: a `TaskResult` of accuracies.

Shape legend: `N` pairs or questions, `D` dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hybrid_ir.data import checked_text, files_by_language, read_json_lines, read_lines, resolve_files, tatoeba_files
from hybrid_ir.evaluation.ranking import Encode
from hybrid_ir.evaluation.tasks.result import TaskResult, per_query_table, task_counts
from hybrid_ir.types import InputError

TATOEBA_MEASURES = ("accuracy_to_en", "accuracy_from_en")
XCOPA_MEASURES = ("accuracy",)


class Pair(NamedTuple):
    """A sentence and its English translation, by line number from 1."""

    query_id: str
    text: str
    english: str


class Choice(NamedTuple):
    """An XCOPA question: which of the two sentences is the cause or effect of the premise. `label` is 0 or 1."""

    query_id: str
    premise: str
    choices: tuple[str, str]
    label: int


def load_tatoeba(folder: str, languages: Sequence[str] | None = None) -> dict[str, tuple[list[Pair], int]]:
    """By language, the pairs of `tatoeba.{xxx}-eng.{xxx,eng}` and how many were left out, as one side is empty."""
    pairs = {}
    for code, path, english_path in tatoeba_files(folder, languages):
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
            nearest_is_own(encode_query(texts), encode_passage(english)),
            nearest_is_own(encode_query(english), encode_passage(texts)),
        )
        rows[code] = ([pair.query_id for pair in kept], dict(zip(TATOEBA_MEASURES, found, strict=True)))
        counts[code] = {"pairs": len(kept), "pairs with an empty side": left_out}
    return TaskResult(TATOEBA_MEASURES, per_query_table(rows), task_counts(counts, ["pairs with an empty side"]))


def nearest_is_own(queries_ND: np.ndarray, passages_ND: np.ndarray) -> np.ndarray:
    """1.0 where row i's highest dot product is with passage i, else 0.0; of equal ones the first passage counts."""
    if queries_ND.shape != passages_ND.shape or not (np.isfinite(queries_ND).all() and np.isfinite(passages_ND).all()):
        raise InputError(f"need finite vectors of one shape, got {queries_ND.shape} and {passages_ND.shape}")
    nearest = (queries_ND @ passages_ND.T).argmax(axis=1)
    return (nearest == np.arange(len(queries_ND))).astype(float)


def load_xcopa(root: str, *, split: str = "test", languages: Sequence[str] | None = None) -> dict[str, list[Choice]]:
    """The questions of `{split}.{language}.jsonl`, by language (None = all). The splits are test and val."""
    files = resolve_files(root, f"{split}.*.jsonl", f"*/{split}.*.jsonl")
    by_language = files_by_language([(path.name.split(".")[1], path) for path in files], languages, root)
    tests = {}
    for code, path in by_language.items():
        tests[code] = [
            _read_choice(where, record, f"{code}/{n}") for n, (where, record) in enumerate(read_json_lines(path))
        ]
        if not tests[code]:
            raise InputError(f"{path} is empty; copy it again")
    return tests


def measure_xcopa(encode_query: Encode, encode_passage: Encode, tests: Mapping[str, list[Choice]]) -> TaskResult:
    """Accuracy: whether the choice with the higher cosine to the premise is the right one; a tie is half right.

    The premise stands alone: that a cause or an effect is asked for is not said, as no prompt says it alike in every
    language. Guessing scores .5.
    """
    rows, counts = {}, {}
    for code, choices in tests.items():
        texts = [text for choice in choices for text in choice.choices]
        premises_ND = encode_query([choice.premise for choice in choices])
        scores_N2 = np.einsum("nd,ncd->nc", premises_ND, encode_passage(texts).reshape(len(choices), 2, -1))
        right = chosen_right(scores_N2, np.array([choice.label for choice in choices]))
        rows[code] = ([choice.query_id for choice in choices], {"accuracy": right})
        counts[code] = {"questions": len(choices)}
    return TaskResult(XCOPA_MEASURES, per_query_table(rows), task_counts(counts, []), {"accuracy": 0.5})


def chosen_right(scores_N2: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """1.0 where the labelled score is the higher, 0.5 where both are equal, else 0.0."""
    if not np.isfinite(scores_N2).all():
        raise InputError("scores hold NaN or infinity; the checkpoint is damaged, so take another one")
    own, other = (np.take_along_axis(scores_N2, column[:, None], 1)[:, 0] for column in (label_N, 1 - label_N))
    return np.where(own == other, 0.5, (own > other).astype(float))


def _read_choice(where: str, record: Mapping[str, Any], query_id: str) -> Choice:
    texts = [record.get(key) for key in ("premise", "choice1", "choice2")]
    if not all(isinstance(text, str) and text.strip() for text in texts) or record.get("label") not in (0, 1):
        raise InputError(
            f"{where} is not a question of XCOPA (premise, choice1, choice2, label 0 or 1): "
            f"found {', '.join(record) or 'nothing'}; copy it again"
        )
    premise, first, second = (checked_text(where, str(text).strip()) for text in texts)
    return Choice(query_id, premise, (first, second), int(record["label"]))
