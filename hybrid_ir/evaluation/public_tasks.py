"""The public tasks besides LAReQA's: a checkpoint and a task's files in, measures per language and a report out.

`metrics.json`, `per_query.parquet` and `report.html` are written to the folder; MIRACL and Mewsli-X add
`runs/{language}.trec`. `load_task` reads and checks what is small, so that a mistake is found before a model is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

from hybrid_ir.config import Experiment
from hybrid_ir.evaluation.collections import encoder_of, measured
from hybrid_ir.evaluation.ranking import Encode
from hybrid_ir.evaluation.tasks.mewsli_x import load_mewsli, measure_mewsli
from hybrid_ir.evaluation.tasks.miracl import load_miracl, measure_miracl
from hybrid_ir.evaluation.tasks.pairs import load_tatoeba, load_xcopa, measure_tatoeba, measure_xcopa
from hybrid_ir.evaluation.tasks.result import TASKS, TaskResult, summarize
from hybrid_ir.reports import write_task_report
from hybrid_ir.storage import write_json
from hybrid_ir.types import InputError

Task = Callable[[Encode, Encode, Path], TaskResult]
"""(encode_query, encode_passage, folder for the runs) -> result."""


def load_task(
    name: str,
    path: str,
    *,
    split: str | None = None,
    languages: Sequence[str] | None = None,
    corpus: str | None = None,
) -> Task:
    """The task, ready to be measured. `split` is as upstream spells it (None = MIRACL's dev, the others' test).

    `corpus` is where MIRACL's corpora are, if not at `path`. Raises InputError for an unknown name, a missing or
    malformed file, or a language the task lacks.
    """
    match name:
        case "miracl":
            tests = load_miracl(path, split=split or "dev", languages=languages, corpus_root=corpus)
            return lambda query, passage, runs: measure_miracl(query, passage, tests, runs)
        case "mewsli-x":
            mentions = load_mewsli(path, split=split or "test", languages=languages)
            return lambda query, passage, runs: measure_mewsli(query, passage, mentions, path, runs)
        case "tatoeba":
            pairs = load_tatoeba(path, languages)
            return lambda query, passage, _: measure_tatoeba(query, passage, pairs)
        case "xcopa":
            choices = load_xcopa(path, split=split or "test", languages=languages)
            return lambda query, passage, _: measure_xcopa(query, passage, choices)
    raise InputError(f"unknown task {name!r}; there are {', '.join(TASKS)}")


def evaluate_task(
    model: SentenceTransformer,
    checkpoint: str,
    name: str,
    task: Task,
    out: Path,
    experiment: Experiment,
    progress: Callable[[int], None] = lambda texts: None,
) -> dict[str, Any]:
    """Measure, write the files to `out`, and return what `metrics.json` holds, as `evaluate` does for a collection."""
    start = time.perf_counter()
    encode_role = encoder_of(model, experiment, progress)
    result = task(partial(encode_role, role="query"), partial(encode_role, role="document"), out / "runs")
    measures = summarize(result, seed=experiment.seed, resamples=experiment.evaluate.bootstrap_rounds)
    summary = measured(name, model, checkpoint, experiment, start) | measures
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(result.per_query, out / "per_query.parquet")
    write_task_report(out / "report.html", title=name, subtitle=f"checkpoint {checkpoint}", summary=summary)
    # Last, so that a folder with measures has everything else too.
    write_json(out / "metrics.json", summary)
    return summary
