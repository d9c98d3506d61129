"""The public tasks besides LAReQA's, by name. In: a task's files. Out: a `Task`, checked and ready to be measured.

A task is a file in tasks/ and a case of `load_task`. Its file has a `load_...`, which reads what is small, and a
`measure_...`, which takes the encoders of queries and passages and gives a `TaskResult`. A task that is a judged set is
a reader in test_sets/ instead, and is measured as every judged set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from hybrid_ir.data import tatoeba_files
from hybrid_ir.evaluation.tasks.mewsli_x import load_mewsli, measure_mewsli
from hybrid_ir.evaluation.tasks.miracl import load_miracl, measure_miracl, miracl_files
from hybrid_ir.evaluation.tasks.mteb_result import MtebTask
from hybrid_ir.evaluation.tasks.result import TaskResult, with_unread_files
from hybrid_ir.evaluation.tasks.tatoeba import load_tatoeba, measure_tatoeba
from hybrid_ir.evaluation.tasks.xcopa import load_xcopa, measure_xcopa, xcopa_files
from hybrid_ir.evaluation.test_sets.belebele import belebele_files, load_belebele
from hybrid_ir.evaluation.test_sets.measure import measure_judged
from hybrid_ir.evaluation.test_sets.mteb_layout import MTEB_SETS, load_mteb_set
from hybrid_ir.evaluation.test_sets.subsets import content_of, measure_subsets
from hybrid_ir.types import InputError

JUDGED_TASKS = ("belebele", *MTEB_SETS)
"""Those that are judged sets: their content is known before they are measured, so that encoders can be compared."""
TASKS = ("miracl", "tatoeba", "mewsli-x", "xcopa", *JUDGED_TASKS)


@dataclass(frozen=True, slots=True)
class Task:
    """`measure` takes the encoders of queries and passages and the folder for TREC runs. `n_texts` is how many texts it
    encodes; None where only the end of a corpus tells. `content` is a hash of all that it measures on; None where its
    files are not read before they are ranked, so that nobody knows whether two measurements are of one test. `mteb` is
    what it is in a result of mteb's; None where it has no such measures. Where it `takes_pieces`, `measure` also takes
    `cut`, by which long passages are cut into pieces."""

    name: str
    measure: Callable[..., TaskResult]
    n_texts: int | None = None
    content: str | None = None
    mteb: MtebTask | None = None
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
        case "belebele":
            if split not in (None, "test"):
                raise InputError(f"belebele is all one split, test, got --split {split}; leave it out")
            files, unread = belebele_files(path, languages)
            test = load_belebele(files)
            mteb = MtebTask("BelebeleRetrieval", tags={code: file.stem for code, file in files.items()})
            return Task(
                name,
                lambda q, p, runs: with_unread_files(measure_judged(test, q, p, runs), unread),
                test.n_texts,
                f"{name} {test.content}",
                mteb,
            )
        case "mldr" | "neuclir" | "mkqa" | "xpqa":
            split = split or MTEB_SETS[name].split
            subsets = load_mteb_set(path, split=split, languages=languages)
            return Task(
                name,
                partial(measure_subsets, subsets, MTEB_SETS[name].measures),
                sum(test.n_texts for test in subsets.values()),
                f"{name} {content_of(subsets)}",
                MtebTask(path.partition("@")[0].rstrip("/").rpartition("/")[2], split),
            )
    raise InputError(f"unknown task {name!r}; there are {', '.join(TASKS)}")
