"""Chance, by resampling: the bootstrap behind every interval, and the paired randomisation test behind every p-value.

In: a statistic of drawn rows, or two lists of paired values. Out: resampled values, 95 % intervals, a p-value.

Neither is SciPy's. `scipy.stats.bootstrap` draws the same resamples in 2 to 10 times the time, and gives no interval
where one of them leaves a measure undefined. `scipy.stats.permutation_test` takes 5 times as long for 1,190 pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from hybrid_ir.types import InputError

BOUNDS = (0.025, 0.975)  # the quantiles of a 95 % interval


def resample(
    statistic: Callable[[np.ndarray], ArrayLike], n: int, rounds: int, generator: np.random.Generator
) -> np.ndarray:
    """The statistic in each round. It gets `n` row numbers, drawn with replacement."""
    return np.array([statistic(generator.integers(n, size=n)) for _ in range(rounds)])


def percentile_intervals(names: Sequence[str], drawn: ArrayLike) -> dict[str, list[float | None]]:
    """By name, where the middle 95 % of its column of `drawn` lie, without NaN. [None, None] where nothing is left."""
    columns = np.reshape(drawn, (-1, len(names))).T
    known = {name: column[~np.isnan(column)] for name, column in zip(names, columns, strict=True)}
    return {n: np.quantile(v, BOUNDS).tolist() if len(v) else [None, None] for n, v in known.items()}


def paired_randomization_test(a: np.ndarray, b: np.ndarray, seed: int = 0, rounds: int = 10_000) -> float:
    """Two-sided p-value of the difference in means of two runs' aligned values, by random swaps of each pair.

    Values must be independent: average the translations of a question first. The least it can give is 1 / (rounds + 1).
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.ndim != 1 or a.shape != b.shape or not len(a) or not np.isfinite(a - b).all() or rounds < 1:
        raise InputError(f"need two aligned lists of finite values and rounds >= 1, got {a.shape}, {b.shape}, {rounds}")
    difference = a - b
    observed = abs(difference.sum()) * (1 - 1e-12)  # sums in another order may differ in the last bit
    generator = np.random.default_rng(seed)
    as_large = 0
    for _ in range(rounds):
        signs = generator.integers(0, 2, len(difference), dtype=np.int8) * 2.0 - 1.0
        as_large += abs(signs @ difference) >= observed
    return (1 + int(as_large)) / (1 + rounds)
