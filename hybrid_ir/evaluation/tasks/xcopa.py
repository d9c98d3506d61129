"""XCOPA: which of two sentences is the cause or effect of a premise; accuracy of taking the nearer one.

In: the questions of each language, JSON lines in the upstream layout. Out: a `TaskResult`.

Shape legend: `N` questions, `D` dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hybrid_ir.data import checked_text, files_by_language, read_json_lines, resolve_files
from hybrid_ir.evaluation.ranking import Encode
from hybrid_ir.evaluation.tasks.result import TaskResult, per_query_table, task_counts
from hybrid_ir.types import InputError

MEASURES = ("accuracy",)


class Choice(NamedTuple):
    """A question: which of the two sentences is the cause or effect of the premise. `label` is 0 or 1."""

    query_id: str
    premise: str
    choices: tuple[str, str]
    label: int


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
    return TaskResult(MEASURES, per_query_table(rows), task_counts(counts, []), {"accuracy": 0.5})


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
