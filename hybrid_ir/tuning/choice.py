"""Choosing among the points of a sweep. In: rows of trials. Out: means over seeds, the best point, the Pareto set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PointResult:
    """What the seeds of one point came to. Means and half-widths of 95 % intervals by measure; NaN with one seed."""

    label: str
    point: Mapping[str, Any]
    trials: tuple[str, ...]
    """Names of its complete trials, best AP_mean of validation first."""
    validation: Mapping[str, float]
    test: Mapping[str, float]
    test_half_width: Mapping[str, float]
    failed: int
    """Trials that did not complete: failed, stopped early or not reached."""


def point_results(rows: Sequence[Mapping[str, Any]]) -> list[PointResult]:
    """Trials (rows of trials.parquet, `point` as a mapping) grouped by point, in their order."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["label"], []).append(row)
    results = []
    for label, members in groups.items():
        done = [row for row in members if row["state"] == "complete"]
        done.sort(key=lambda row: -row["validation"].get("AP_mean", -math.inf))
        test = [row["test"] for row in done]
        results.append(
            PointResult(
                label=label,
                point=members[0]["point"],
                trials=tuple(row["trial"] for row in done),
                validation=_means([row["validation"] for row in done]),
                test=_means(test),
                test_half_width={name: half_width([t[name] for t in test if name in t]) for name in _means(test)},
                failed=len(members) - len(done),
            )
        )
    return results


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean (Student's t over seeds). NaN with fewer than two."""
    n = len(values)
    if n < 2:
        return math.nan
    from scipy.stats import t

    return float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def choose(results: Sequence[PointResult], max_rank_distance: float | None = None) -> PointResult | None:
    """The point with the best AP_mean of validation among those that keep the bound on rank distance, or None."""
    able = [
        r
        for r in results
        if "AP_mean" in r.validation
        and (max_rank_distance is None or r.validation.get("rank_distance", math.inf) <= max_rank_distance)
    ]
    return max(able, key=lambda r: r.validation["AP_mean"], default=None)


def pareto(results: Sequence[PointResult]) -> list[PointResult]:
    """Points that no other beats on both AP_mean and rank distance of validation, by ascending rank distance."""
    able = [r for r in results if {"AP_mean", "rank_distance"} <= r.validation.keys()]
    kept = [r for r in able if not any(_beats(other, r) for other in able)]
    return sorted(kept, key=lambda r: r.validation["rank_distance"])


def _beats(a: PointResult, b: PointResult) -> bool:
    better = a.validation["AP_mean"] - b.validation["AP_mean"]
    closer = b.validation["rank_distance"] - a.validation["rank_distance"]
    return better >= 0 and closer >= 0 and better + closer > 0


def _means(measures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in measures for name in row)
    return {name: float(np.mean([row[name] for row in measures if name in row])) for name in names}
