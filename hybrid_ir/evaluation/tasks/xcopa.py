"""XCOPA: which of two sentences is the cause or effect of a premise; accuracy of taking the nearer one.

In: the questions of each language, in upstream's JSON lines or the hub's Parquet. Out: a `TaskResult`.

Shape legend: `N` questions, `D` dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hybrid_ir.data import (
    LanguageFiles,
    checked_text,
    files_by_language,
    parquet_rows,
    read_json_lines,
    resolve_files,
)
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
    """The questions of each language (None = all), by code. The splits are test and val.

    `root` is a folder of `{split}.{language}.jsonl` (upstream's `data`), or has the hub's Parquet: a folder a language,
    where val is called validation. The hub's `translation-{language}` are English translations made by machine, and no
    part of the test. Raises InputError for two files of one language: a clone of upstream's repository has such
    translations under the same names, in `data-gmt` beside `data`.
    """
    tests = {}
    for code, path in xcopa_files(root, split, languages).files.items():
        tests[code] = [_read_choice(where, row, f"{code}/{n}") for n, (where, row) in enumerate(_rows(path))]
        if not tests[code]:
            raise InputError(f"{path} is empty; copy it again")
    return tests


def xcopa_files(root: str, split: str, languages: Sequence[str] | None) -> LanguageFiles:
    """The file of each language, and those that are none of a known language. Raises InputError as `load_xcopa`."""
    hub_split = {"val": "validation"}.get(split, split)
    names = [f"{split}.*.jsonl", f"*/{split}.*.jsonl", f"*/{hub_split}-*.parquet", f"*/{hub_split}/*.parquet"]
    tagged = []
    for path in resolve_files(root, *names):
        folder = path.parent.parent if path.parent.name == hub_split else path.parent
        if path.suffix == ".jsonl" or not folder.name.startswith("translation-"):
            tagged.append((path.name.split(".")[1] if path.suffix == ".jsonl" else folder.name, path))
    return files_by_language(tagged, languages, root)


def measure_xcopa(encode_query: Encode, encode_passage: Encode, tests: Mapping[str, list[Choice]]) -> TaskResult:
    """Accuracy: whether the choice with the higher cosine to the premise is the right one; a tie is half right.

    The premise stands alone: that a cause or an effect is asked for is not said, as no prompt says it alike in every
    language. Guessing scores .5.
    """
    rows, counts = {}, {}
    for code, choices in tests.items():
        texts = [text for choice in choices for text in choice.choices]
        premises_ND = encode_query([choice.premise for choice in choices], code)
        choices_N2D = encode_passage(texts, code).reshape(len(choices), 2, -1)
        scores_N2 = np.einsum("nd,ncd->nc", premises_ND, choices_N2D)
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


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".jsonl":
        return read_json_lines(path)
    return ((f"{path}:{number}", row) for number, row in parquet_rows(path))


def _read_choice(where: str, record: Any, query_id: str) -> Choice:
    record = record if isinstance(record, dict) else {}
    texts = [record.get(key) for key in ("premise", "choice1", "choice2")]
    if not all(isinstance(text, str) and text.strip() for text in texts) or record.get("label") not in (0, 1):
        raise InputError(
            f"{where} is not a question of XCOPA (premise, choice1, choice2, label 0 or 1): "
            f"found {', '.join(record) or 'nothing'}; copy it again"
        )
    premise, first, second = (checked_text(where, str(text).strip()) for text in texts)
    return Choice(query_id, premise, (first, second), int(record["label"]))
