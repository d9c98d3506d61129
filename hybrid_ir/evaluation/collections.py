"""Evaluate: a checkpoint and a test collection in, `metrics.json`, `per_query.parquet` and `report.html` out."""

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
from hybrid_ir.evaluation.measures import evaluate_collection
from hybrid_ir.evaluation.tasks.result import TASKS
from hybrid_ir.languages import FAMILY
from hybrid_ir.reports import read_log, write_report
from hybrid_ir.storage import write_json
from hybrid_ir.types import Collection, InputError

COLLECTIONS = ("store", "xquad-r", "mlqa-r")


def load_collection(name: str, path: str, *, split: str = "test", languages: Sequence[str] | None = None) -> Collection:
    """`store`: the held-out `split` of a store; `xquad-r` and `mlqa-r`: a folder of LAReQA files, all of it.

    Raises InputError for an unknown name, a missing folder, or a language the collection lacks.
    """
    if name in ("xquad-r", "mlqa-r"):
        return lareqa_collection(path, name, languages)
    if name != "store":
        raise InputError(f"unknown collection {name!r}; there are {', '.join((*COLLECTIONS, *TASKS))}")
    collection = open_store(path).collection(split)
    for language in languages or ():
        if language not in collection.languages:
            raise InputError(f"{path} has no test in {language!r}; it has {', '.join(collection.languages)}")
    if languages:
        return Collection(
            collection.name,
            [q for q in collection.queries if q.language in languages],
            [c for c in collection.candidates if c.language in languages],
        )
    return collection


def encoder_of(
    model: SentenceTransformer, experiment: Experiment, progress: Callable[[int], None] = lambda texts: None
) -> Callable[..., np.ndarray]:
    """`encode` with this model, as `experiment.evaluate` says; it takes texts and `role`."""
    settings = experiment.evaluate
    return partial(encode, model, precision=settings.precision, token_budget=settings.token_budget, progress=progress)


def measured(
    collection: str, model: SentenceTransformer, checkpoint: str, experiment: Experiment, start: float
) -> dict[str, Any]:
    """What `metrics.json` says of how it was measured. `start` is by `time.perf_counter`."""
    return {
        "collection": collection,
        "checkpoint": checkpoint,
        "precision": resolve_precision(experiment.evaluate.precision, model.device.type),
        "seconds": round(time.perf_counter() - start, 1),
        "version": hybrid_ir.__version__,
    }


def evaluate(
    model: SentenceTransformer,
    checkpoint: str,
    collection: Collection,
    out: Path,
    experiment: Experiment,
    progress: Callable[[int], None] = lambda texts: None,
) -> dict[str, Any]:
    """Encode every query and candidate, rank all candidates for each query, average; write the files to `out`.

    Returns what `metrics.json` holds. Of `experiment`, `evaluate` and `seed` are read.
    """
    start = time.perf_counter()
    encode_role = encoder_of(model, experiment, progress)
    evaluation = evaluate_collection(
        collection.queries,
        collection.candidates,
        encode_role([q.text for q in collection.queries], role="query"),
        encode_role([c.text for c in collection.candidates], role="document"),
        families=FAMILY,
        seed=experiment.seed,
        resamples=experiment.evaluate.bootstrap_rounds,
    )
    summary = measured(collection.name, model, checkpoint, experiment, start) | evaluation.summary
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(evaluation.per_query, out / "per_query.parquet")
    write_report(
        out / "report.html",
        title=f"{collection.name}",
        subtitle=f"checkpoint {checkpoint}",
        summary=summary,
        training_log=read_log(Path(checkpoint).parent / "log.jsonl"),
    )
    # Last, so that a folder with measures has everything else too.
    write_json(out / "metrics.json", summary)
    return summary
