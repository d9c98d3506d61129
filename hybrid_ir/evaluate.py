"""Evaluate: a checkpoint and a test collection in, `metrics.json`, `per_query.parquet` and `report.html` out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

import hybrid_ir
from hybrid_ir.encoder import encode, resolve_precision
from hybrid_ir.languages import FAMILY
from hybrid_ir.metrics import Evaluation, evaluate_collection
from hybrid_ir.report import write_report
from hybrid_ir.run_folder import read_log, write_json
from hybrid_ir.squad import lareqa_collection
from hybrid_ir.store import open_store
from hybrid_ir.task_result import TASKS
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


def measure(
    model: SentenceTransformer,
    collection: Collection,
    *,
    precision: str,
    token_budget: int | None,
    bootstrap_rounds: int,
    seed: int,
    progress: Callable[[int], None] = lambda texts: None,
) -> Evaluation:
    """Encode every query and candidate, rank all candidates for each query, average."""
    settings: dict[str, Any] = {"precision": precision, "token_budget": token_budget, "progress": progress}
    return evaluate_collection(
        collection.queries,
        collection.candidates,
        encode(model, [q.text for q in collection.queries], role="query", **settings),
        encode(model, [c.text for c in collection.candidates], role="document", **settings),
        families=FAMILY,
        seed=seed,
        resamples=bootstrap_rounds,
    )


def evaluate(
    model: SentenceTransformer,
    checkpoint: str,
    collection: Collection,
    out: Path,
    *,
    precision: str,
    token_budget: int | None,
    bootstrap_rounds: int,
    seed: int,
    progress: Callable[[int], None] = lambda texts: None,
) -> dict[str, Any]:
    """Measure, write the three files and a manifest to `out`, and return the measures."""
    start = time.perf_counter()
    evaluation = measure(
        model,
        collection,
        precision=precision,
        token_budget=token_budget,
        bootstrap_rounds=bootstrap_rounds,
        seed=seed,
        progress=progress,
    )
    summary = {
        "collection": collection.name,
        "checkpoint": checkpoint,
        "precision": resolve_precision(precision, model.device.type),
        "seconds": round(time.perf_counter() - start, 1),
        "version": hybrid_ir.__version__,
        **evaluation.summary,
    }
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
