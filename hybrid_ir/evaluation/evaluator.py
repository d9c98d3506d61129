"""Evaluate: a checkpoint and a test in; `metrics.json`, `per_query.parquet` and `report.html` out.

A test is a collection, in which all candidates are ranked for every query, or a public task, which may add TREC runs in
`runs/{language}.trec`. `load_test` reads and checks what is small, so that a mistake is found before a model is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

import hybrid_ir
from hybrid_ir.config import Experiment
from hybrid_ir.data import lareqa_collection, open_store
from hybrid_ir.encoders import encode, resolve_precision
from hybrid_ir.evaluation.averages import evaluate_collection
from hybrid_ir.evaluation.public_tasks import TASKS, Task, load_task
from hybrid_ir.evaluation.tasks.result import summarize
from hybrid_ir.languages import FAMILY
from hybrid_ir.measure_names import MEASURES
from hybrid_ir.reports import read_log, write_report, write_task_report
from hybrid_ir.storage import write_json
from hybrid_ir.types import Collection, InputError

LAREQA = ("xquad-r", "mlqa-r")
Test = Collection | Task


def load_test(
    name: str, path: str, *, split: str | None = None, languages: Sequence[str] | None = None, corpus: str | None = None
) -> Test:
    """A split that a `store` holds out, a folder of LAReQA's files (xquad-r, mlqa-r: all of it), or a public task.

    `split` None is the test split, and dev for MIRACL. `corpus` is where MIRACL's corpora are, if not at `path`. Raises
    InputError for an unknown name, a missing or malformed file, or a language that the test lacks.
    """
    if name in TASKS:
        return load_task(name, path, split=split, languages=languages, corpus=corpus)
    if name in LAREQA:
        return lareqa_collection(path, name, languages)
    if name != "store":
        raise InputError(f"unknown collection {name!r}; there are {', '.join(('store', *LAREQA, *TASKS))}")
    collection = open_store(path).collection(split or "test")
    for language in languages or ():
        if language not in collection.languages:
            raise InputError(f"{path} has no test in {language!r}; it has {', '.join(collection.languages)}")
    if not languages:
        return collection
    return Collection(
        collection.name,
        [q for q in collection.queries if q.language in languages],
        [c for c in collection.candidates if c.language in languages],
    )


def count_texts(test: Test) -> int | None:
    """How many texts an evaluation encodes; None where only the end of a corpus tells."""
    return len(test.queries) + len(test.candidates) if isinstance(test, Collection) else None


def encoder_of(
    model: SentenceTransformer, experiment: Experiment, progress: Callable[[int], None] = lambda texts: None
) -> Callable[..., np.ndarray]:
    """`encode` with this model, as `experiment.evaluate` says; it takes texts and `role`."""
    settings = experiment.evaluate
    return partial(encode, model, precision=settings.precision, token_budget=settings.token_budget, progress=progress)


def evaluate(
    model: SentenceTransformer,
    checkpoint: str,
    test: Test,
    out: Path,
    experiment: Experiment,
    progress: Callable[[int], None] = lambda texts: None,
) -> dict[str, Any]:
    """Encode the texts of the test, rank, average; write the files to `out`. `progress` gets how many texts are done.

    Returns what `metrics.json` holds. Of `experiment`, `evaluate` and `seed` are read.
    """
    start = time.perf_counter()
    encode_role = encoder_of(model, experiment, progress)
    chance = {"seed": experiment.seed, "resamples": experiment.evaluate.bootstrap_rounds}
    if isinstance(test, Collection):
        queries = encode_role([q.text for q in test.queries], role="query")
        candidates = encode_role([c.text for c in test.candidates], role="document")
        result = evaluate_collection(test.queries, test.candidates, queries, candidates, families=FAMILY, **chance)
        measures = result.summary
        write_page = partial(write_report, training_log=read_log(Path(checkpoint).parent / "log.jsonl"))
    else:
        result = test.measure(partial(encode_role, role="query"), partial(encode_role, role="document"), out / "runs")
        measures, write_page = summarize(result, **chance), write_task_report
    summary = {
        "collection": test.name,
        "checkpoint": checkpoint,
        "precision": resolve_precision(experiment.evaluate.precision, model.device.type),
        "seconds": round(time.perf_counter() - start, 1),
        "version": hybrid_ir.__version__,
        **measures,
    }
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(result.per_query, out / "per_query.parquet")
    write_page(out / "report.html", title=test.name, subtitle=f"checkpoint {checkpoint}", summary=summary)
    # Last, so that a folder with measures has everything else too.
    write_json(out / "metrics.json", summary)
    return summary


def averages_of(summary: dict[str, Any]) -> dict[str, float | None]:
    """The averages of an evaluation by measure: of a task its own, of a collection those of `MEASURES`."""
    return summary.get("measures") or {measure: summary[measure] for measure in MEASURES}
