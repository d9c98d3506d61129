"""The public tasks besides LAReQA's, by name. In: a task's files. Out: a `Task`, checked and ready to be measured.

A task is a file in tasks/ and a case of `load_task`. Its file has a `load_...`, which reads what is small, and a
`measure_...`, which takes the encoders of queries and passages and gives a `TaskResult`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybrid_ir.data import tatoeba_files
from hybrid_ir.evaluation.tasks.mewsli_x import load_mewsli, measure_mewsli
from hybrid_ir.evaluation.tasks.miracl import load_miracl, measure_miracl, miracl_files
from hybrid_ir.evaluation.tasks.result import TaskResult, with_unread_files
from hybrid_ir.evaluation.tasks.tatoeba import load_tatoeba, measure_tatoeba
from hybrid_ir.evaluation.tasks.xcopa import load_xcopa, measure_xcopa, xcopa_files
from hybrid_ir.types import InputError

TASKS = ("miracl", "tatoeba", "mewsli-x", "xcopa")


@dataclass(frozen=True, slots=True)
class Task:
    """`measure` takes the encoders of queries and passages and the folder for TREC runs. `n_texts` is how many texts it
    encodes; None where only the end of a corpus tells. `content` is a hash of all that it measures on; None where its
    files are not read before they are ranked, so that nobody knows whether two measurements are of one test. Where it
    `takes_pieces`, `measure` also takes `cut`, by which long passages are cut into pieces."""

    name: str
    measure: Callable[..., TaskResult]
    n_texts: int | None = None
    content: str | None = None
    takes_pieces: bool = False


def load_task(
    name: str, path: str, *, split: str | None = None, languages: Sequence[str] | None = None, corpus: str | None = None
) -> Task:
    """As `load_test` says. `split` is as upstream spells it."""
    match name:
        case "miracl":
            topics = load_miracl(path, split=split or "dev", languages=languages, corpus_root=corpus)
            unread = miracl_files("topics", path, split or "dev", languages).left_out
            return Task(name, lambda q, p, runs: with_unread_files(measure_miracl(q, p, topics, runs), unread))
        case "mewsli-x":
            mentions = load_mewsli(path, split=split or "test", languages=languages)
            return Task(name, lambda query, passage, runs: measure_mewsli(query, passage, mentions, path, runs))
        case "tatoeba":
            pairs = load_tatoeba(path, languages)
            unread = tatoeba_files(path, languages).left_out
            return Task(name, lambda q, p, _: with_unread_files(measure_tatoeba(q, p, pairs), unread))
        case "xcopa":
            choices = load_xcopa(path, split=split or "test", languages=languages)
            unread = xcopa_files(path, split or "test", languages).left_out
            return Task(name, lambda q, p, _: with_unread_files(measure_xcopa(q, p, choices), unread))
    raise InputError(f"unknown task {name!r}; there are {', '.join(TASKS)}")
