"""Compare: the same training under several mixes, evaluated on the same held-out collection: one table, one page.

Every run has the store, seed, steps and batch size of the others, so that only the mix differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hybrid_ir.config import Experiment
from hybrid_ir.encoders import load_encoder
from hybrid_ir.evaluation import evaluate
from hybrid_ir.measure_names import MEASURES
from hybrid_ir.reports import heat_map_png, read_log, write_comparison
from hybrid_ir.storage import write_json
from hybrid_ir.training import train
from hybrid_ir.types import Collection


def compare(
    experiments: Mapping[str, Experiment],
    collection: Collection,
    out: Path,
    *,
    resources: dict[str, float],
    started: Callable[[str, Experiment], None],
    report: Callable[[dict[str, Any]], None],
) -> dict[str, dict[str, Any]]:
    """Train and evaluate each (what is already there is kept), write `compare.json`, `report.html` and `heat_map.png`
    to `out`, and return the measures by name."""
    summaries: dict[str, dict[str, Any]] = {}
    for name, experiment in experiments.items():
        started(name, experiment)
        train(experiment, resources, report)
        checkpoint = f"{experiment.out}/checkpoint"
        done = Path(experiment.out) / "test" / "metrics.json"
        if done.is_file() and done.stat().st_mtime > Path(experiment.out, "metrics.json").stat().st_mtime:
            summaries[name] = json.loads(done.read_text(encoding="utf-8"))
            continue
        summaries[name] = evaluate(load_encoder(checkpoint), checkpoint, collection, done.parent, experiment)
    one = next(iter(experiments.values()))
    settings = one.model_dump(mode="json", exclude={"out": True, "batch": {"mix", "alpha"}})
    write_comparison(
        out / "report.html",
        title=f"{collection.name}: {', '.join(experiments)}",
        subtitle=f"{one.train.steps} steps of {one.batch.size} groups each, seed {one.seed}",
        runs={
            name: {"summary": summaries[name], "log": read_log(Path(experiment.out) / "log.jsonl")}
            for name, experiment in experiments.items()
        },
        settings=settings,
    )
    heat_map_png(out / "heat_map.png", {name: summary["matrix"] for name, summary in summaries.items()})
    write_json(
        out / "compare.json",
        {
            name: {m: summary[m] for m in MEASURES} | {"intervals": summary["intervals"]}
            for name, summary in summaries.items()
        },
    )
    return summaries
