"""One trial of a sweep or a comparison. In: its experiment. Out: its run folder with test/, and a row of measures."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hybrid_ir.config import Experiment, Index
from hybrid_ir.data import open_store
from hybrid_ir.encoders import load_encoder
from hybrid_ir.evaluation import evaluate, with_mean
from hybrid_ir.measure_names import MEASURES
from hybrid_ir.storage import absolute, open_filesystem, written
from hybrid_ir.training import encoding_options, train, use_encoding_threads


class Stopped(Exception):
    """The sweep ends this trial early. Raised by `report`; its workers save and leave."""


def run_trial(
    experiment: Experiment, resources: dict[str, float], report: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Train `experiment` (or go on where it was left), evaluate it, and return what the sweep's table shows.

    `report` is called with each log row, several a second, and may raise `Stopped`. Validation measures are the kept
    checkpoint's; `test` is empty where the store holds nothing out for it.
    """
    metrics = train(experiment, resources, report)
    return {
        "step": metrics["steps"],
        "best_step": metrics["best_step"],
        "seconds": metrics["seconds"],
        "pairs_per_s": metrics["pairs_per_s"],
        **metrics["validation"],
        "test": test_measures(experiment),
    }


def test_measures(experiment: Experiment) -> dict[str, float]:
    """Measures of the trained checkpoint on the store's test split, written to RUN/test/ once."""
    filesystem, inner = open_filesystem(experiment.out)
    trained, done = filesystem.get_file_info([f"{inner}/metrics.json", f"{inner}/test/metrics.json"])
    if done.is_file and done.mtime > trained.mtime:
        summary = json.loads(filesystem.open_input_stream(done.path).read())
    elif not open_store(experiment.store).manifest["eval"].get("test"):
        return {}
    elif experiment.train.gpus_per_worker:  # this process has none
        import ray

        elsewhere = {"out": absolute(experiment.out), "store": absolute(experiment.store)}
        task = ray.remote(evaluate_test).options(**encoding_options(experiment))
        summary = ray.get(task.remote(experiment.model_copy(update=elsewhere)))
    else:
        summary = evaluate_test(experiment)
    return with_mean({measure: summary[measure] for measure in MEASURES if summary.get(measure) is not None})


def evaluate_test(experiment: Experiment) -> dict[str, Any]:
    """Rank the test split's candidates with the trained checkpoint. Writes RUN/test/, and returns its metrics.json."""
    checkpoint = f"{experiment.out}/checkpoint"
    use_encoding_threads(experiment)
    device = "cuda" if experiment.train.gpus_per_worker else "cpu"
    collection = open_store(experiment.store).collection("test")
    with written(f"{experiment.out}/test") as folder:
        # A trial has no index: passages are measured as they are.
        plain = experiment.model_copy(update={"index": Index()})
        return evaluate(load_encoder(checkpoint, device=device), checkpoint, collection, folder, plain)
