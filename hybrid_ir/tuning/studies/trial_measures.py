"""What the trials of a study measured. In: a point's results, run folders, probes. Out: means over its trials."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.evaluation import LAREQA
from hybrid_ir.tuning.choice import PointResult
from hybrid_ir.tuning.studies.probes import mean_values
from hybrid_ir.types import InputError

Probes = Mapping[str, Mapping[str, float]]
"""Trial name -> what its study's probe measured."""


def mean_probes(result: PointResult, probes: Probes) -> dict[str, float]:
    """Mean over a point's trials of each number that its study's probe measured; {} where it measured none."""
    return mean_values([probes[trial] for trial in result.trials if trial in probes])


def test_folder(out: Path, trial: str) -> Path:
    """Folder of the measures that a trial's findings are over: the store's test, or else the first LAReQA benchmark."""
    run = out / "trials" / trial
    for name in ("test", *LAREQA):
        if (run / name / "per_query.parquet").is_file():
            return run / name
    raise InputError(f"{run} was evaluated on no test: prepare with test_fraction above 0, or name a collection")


def test_summaries(result: PointResult, out: Path) -> list[dict[str, Any]]:
    """What each of a point's trials came to on that test, as its metrics.json has it."""
    folders = [test_folder(out, trial) for trial in result.trials]
    return [json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in folders]


def per_language(result: PointResult, out: Path, measure: str) -> dict[str, float]:
    """Mean over trials of a measure of each language."""
    found: dict[str, list[float]] = defaultdict(list)
    for summary in test_summaries(result, out):
        for language, values in summary["per_language"].items():
            if values[measure] is not None:
                found[language].append(values[measure])
    return {language: float(np.mean(values)) for language, values in found.items()}


def per_seen(result: PointResult, out: Path, trained: Sequence[str]) -> dict[str, float]:
    """Mean AP over ordered pairs of languages, by whether training saw both of the pair, one or neither."""
    names = ("trained pairs", "one side unseen", "both sides unseen")
    cells: dict[str, list[float]] = {name: [] for name in names}
    for summary in test_summaries(result, out):
        for query, passages in summary["matrix"].items():
            for passage, ap in passages.items():
                if ap is not None:
                    cells[names[(query not in trained) + (passage not in trained)]].append(ap)
    return {name: float(np.mean(values)) for name, values in cells.items() if values}


def training_seconds(result: PointResult, out: Path) -> float:
    runs = [out / "trials" / trial / "metrics.json" for trial in result.trials]
    return float(np.mean([json.loads(run.read_text(encoding="utf-8"))["seconds"] for run in runs]))
