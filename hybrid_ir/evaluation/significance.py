"""Is the difference between two trainings more than chance? Paired by test question, over all seeds.

In: the test measures by query (`per_query.parquet`) of the trials of two points. Out: the difference, its 95 %
bootstrap interval, and the p-value of a paired randomisation test (Smucker et al., "A comparison of statistical
significance tests for information retrieval evaluation", 2007), with Holm's correction over one table's comparisons.

A question's translations, language pairs and seeds are averaged first: they are not independent. So the test speaks of
other questions, with these seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_ir.evaluation.averages import ALL
from hybrid_ir.evaluation.resampling import BOUNDS, paired_randomization_test, resample
from hybrid_ir.measure_names import HEADLINE, lower_is_better
from hybrid_ir.types import InputError

ALPHA = 0.05
Trials = tuple[str, Sequence[Path]]  # the label of a point and the `per_query.parquet` of each of its trials


@dataclass(frozen=True)
class Comparison:
    """One measure of `first` against `second`. `difference` is first minus second, over `questions` test questions."""

    first: str
    second: str
    measure: str
    values: tuple[float, float]
    difference: float
    low: float
    high: float
    p: float
    questions: int

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `no difference shown`, of the first."""
        if self.p >= ALPHA:
            return "no difference shown"
        return "better" if (self.difference > 0) != lower_is_better(self.measure) else "worse"


def question_values(per_query: Path, measure: str) -> dict[str, float]:
    """The measure of every test question: the mean over its languages, and for AP_cross over pairs of languages."""
    column = "AP" if measure.startswith("AP_") else measure
    table = pq.read_table(per_query, columns=["group_id", "language", "pool", column])
    pool, language = (np.array(table[name].to_pylist()) for name in ("pool", "language"))
    one_pool = {"AP_mono": pool == language, "AP_cross": (pool != language) & (pool != ALL)}
    rows = one_pool.get(measure, pool == ALL)
    means = table.filter(pa.array(rows)).select(["group_id", column]).group_by("group_id").aggregate([(column, "mean")])
    pairs = zip(means["group_id"].to_pylist(), means[f"{column}_mean"].to_pylist(), strict=True)
    return {group: value for group, value in pairs if value is not None}


def compare_trials(
    first: Trials, second: Trials, *, measures: Sequence[str] = HEADLINE, seed: int = 0, rounds: int = 10_000
) -> list[Comparison]:
    """A comparison of two points a measure. Raises InputError without a common question."""
    found = []
    for measure in measures:
        a, b = (_mean_over_trials([question_values(path, measure) for path in paths]) for _, paths in (first, second))
        found.append(_compare_values((first[0], a), (second[0], b), measure, seed, rounds))
    return found


def compare_queries(
    first: tuple[str, Path], second: tuple[str, Path], measures: Sequence[str], *, seed: int = 0, rounds: int = 10_000
) -> list[Comparison]:
    """A comparison a measure of two `per_query.parquet` of a task, query by query; each query counts as independent.

    So the means are over queries, whatever their language. Raises InputError without a common query.
    """
    found = []
    for measure in measures:
        a, b = (
            dict(zip(*pq.read_table(path, columns=["query_id", measure]).to_pydict().values(), strict=True))
            for _, path in (first, second)
        )
        found.append(_compare_values((first[0], a), (second[0], b), measure, seed, rounds))
    return found


def holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with p-values corrected for their number (Holm, 1979): the k-th smallest of n times n - k + 1, never
    below the one before."""
    order = sorted(range(len(comparisons)), key=lambda i: comparisons[i].p)
    corrected, least = list(comparisons), 0.0
    for k, i in enumerate(order):
        least = min(1.0, max(least, comparisons[i].p * (len(order) - k)))
        corrected[i] = replace(comparisons[i], p=least)
    return corrected


def _compare_values(
    first: tuple[str, Mapping[str, float]],
    second: tuple[str, Mapping[str, float]],
    measure: str,
    seed: int,
    rounds: int,
) -> Comparison:
    (label_a, a), (label_b, b) = first, second
    common = sorted(a.keys() & b.keys())
    if not common:
        raise InputError(f"{label_a} and {label_b} answer no question in common; evaluate both on one collection")
    values_a, values_b = (np.array([values[question] for question in common]) for values in (a, b))
    differences, means = values_a - values_b, (float(values_a.mean()), float(values_b.mean()))
    low, high = _interval_of_mean(differences, seed)
    p = paired_randomization_test(values_a, values_b, seed, rounds)
    return Comparison(label_a, label_b, measure, means, float(differences.mean()), low, high, p, len(common))


def _mean_over_trials(trials: Sequence[Mapping[str, float]]) -> dict[str, float]:
    groups = set.intersection(*(set(trial) for trial in trials)) if trials else set()
    return {group: float(np.mean([trial[group] for trial in trials])) for group in groups}


def _interval_of_mean(values: np.ndarray, seed: int, rounds: int = 2000) -> tuple[float, float]:
    means = resample(lambda rows: values[rows].mean(), len(values), rounds, np.random.default_rng(seed))
    low, high = np.quantile(means, BOUNDS).tolist()
    return low, high
