"""The public tasks besides LAReQA's, by name. In: a task's files. Out: a `Task`, checked and ready to be measured.

A task is a file in tasks/ and a case of `load_task`. Its file has a `load_...`, which reads what is small, and a
`measure_...`, which takes the encoders of queries and passages and gives a `TaskResult`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid_ir.evaluation.ranking import Encode
from hybrid_ir.evaluation.tasks.mewsli_x import load_mewsli, measure_mewsli
from hybrid_ir.evaluation.tasks.miracl import load_miracl, measure_miracl
from hybrid_ir.evaluation.tasks.result import TaskResult
from hybrid_ir.evaluation.tasks.tatoeba import load_tatoeba, measure_tatoeba
from hybrid_ir.evaluation.tasks.xcopa import load_xcopa, measure_xcopa
from hybrid_ir.types import InputError

TASKS = ("miracl", "tatoeba", "mewsli-x", "xcopa")


@dataclass(frozen=True, slots=True)
class Task:
    """`measure` takes the encoders of queries and passages and the folder for TREC runs."""

    name: str
    measure: Callable[[Encode, Encode, Path], TaskResult]


def load_task(
    name: str, path: str, *, split: str | None = None, languages: Sequence[str] | None = None, corpus: str | None = None
) -> Task:
    """As `load_test` says. `split` is as upstream spells it."""
    match name:
        case "miracl":
            topics = load_miracl(path, split=split or "dev", languages=languages, corpus_root=corpus)
            return Task(name, lambda query, passage, runs: measure_miracl(query, passage, topics, runs))
        case "mewsli-x":
            mentions = load_mewsli(path, split=split or "test", languages=languages)
            return Task(name, lambda query, passage, runs: measure_mewsli(query, passage, mentions, path, runs))
        case "tatoeba":
            pairs = load_tatoeba(path, languages)
            return Task(name, lambda query, passage, _: measure_tatoeba(query, passage, pairs))
        case "xcopa":
            choices = load_xcopa(path, split=split or "test", languages=languages)
            return Task(name, lambda query, passage, _: measure_xcopa(query, passage, choices))
    raise InputError(f"unknown task {name!r}; there are {', '.join(TASKS)}")
