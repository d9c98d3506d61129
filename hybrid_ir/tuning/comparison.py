"""Comparison: a sweep over `recipe`, with a page of its own. In: an experiment, names of recipes. Out: trials, files.

Its trials have the store, seed, steps and batch size of one another, so that only the recipe differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.config import Experiment
from hybrid_ir.measure_names import MEASURES
from hybrid_ir.reports import heat_map_png, read_log, write_comparison
from hybrid_ir.storage import write_json
from hybrid_ir.tuning.points import point_label
from hybrid_ir.tuning.search_space import Space
from hybrid_ir.tuning.sweeps import list_trials
from hybrid_ir.types import InputError


def list_recipes(base: Experiment, recipes: Sequence[str]) -> dict[str, Experiment]:
    """A trial a recipe, named by it, in a folder of `base.out`. Raises InputError for an unknown name, or one twice."""
    if len(set(recipes)) != len(recipes) or not recipes:
        raise InputError(f"mixes must be named once each, got {', '.join(recipes) or 'none'}")
    space = Space(seeds=(base.seed,), axes=({"recipe": tuple(recipes)},))
    trials = list_trials(base, space, base.out, name=lambda point, experiment: point_label(point))
    return {name: experiment for name, (_, experiment) in trials.items()}


def publish_comparison(trials: Mapping[str, Experiment], collection: str, out: Path) -> dict[str, dict[str, Any]]:
    """Write `compare.json`, `report.html` and `heat_map.png` of trials that ran, and return their measures by name."""
    tests = {name: Path(each.out) / "test" / "metrics.json" for name, each in trials.items()}
    summaries = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in tests.items()}
    one = next(iter(trials.values()))
    write_comparison(
        out / "report.html",
        title=f"{collection}: {', '.join(trials)}",
        subtitle=f"{one.train.steps} steps of {one.batch.size} groups each, seed {one.seed}",
        runs={
            name: {"summary": summaries[name], "log": read_log(Path(each.out) / "log.jsonl")}
            for name, each in trials.items()
        },
        settings=one.model_dump(mode="json", exclude={"out": True, "batch": {"mix", "alpha"}}),
    )
    heat_map_png(out / "heat_map.png", {name: summary["matrix"] for name, summary in summaries.items()})
    shown = (*MEASURES, "intervals")
    write_json(out / "compare.json", {name: {key: s[key] for key in shown} for name, s in summaries.items()})
    return summaries
