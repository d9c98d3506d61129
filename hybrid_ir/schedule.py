"""Exact shares over time: which item has each turn, with no state and no chance."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import lcm

import numpy as np


class Schedule:
    """Deals turns to items in proportion to whole-number weights: every item is always within one turn of its share.

    The order is Tijdeman's ("The chairman assignment problem", 1980): of the items that are owed a turn, the one whose
    next turn is due first. It repeats after sum(weights) turns, so a table of one period answers any turn at once.
    (To give each turn to the item with the largest deficit, the obvious rule, breaks the bound for skewed weights.)
    """

    def __init__(self, weights: Sequence[int]) -> None:
        parts = np.asarray(weights, dtype=np.int64)
        assert len(parts)
        assert (parts >= 0).all()
        assert parts.sum() > 0
        parts = parts // np.gcd.reduce(parts)
        self.parts = parts
        self.period = int(parts.sum())
        # Equal weights take turns: what Tijdeman's rule comes to, without its n * n steps (128 languages: n = 16,256).
        self._items = np.arange(len(parts)) if (parts == 1).all() else _tijdeman(tuple(int(p) for p in parts))

    def item(self, turns: np.ndarray) -> np.ndarray:
        """Item that has each of `turns` (counted from 0). Same shape as `turns`."""
        return self._items[turns % self.period]

    def counts(self, turns: int | np.ndarray) -> np.ndarray:
        """How many of the first `turns` turns each item had, shape (items,). Of several `turns`, the sum."""
        whole, rest = np.divmod(np.atleast_1d(turns), self.period)
        beyond = len(rest) - np.searchsorted(np.sort(rest), np.arange(self.period), side="right")
        started = np.bincount(self._items, weights=beyond, minlength=len(self.parts))
        return whole.sum() * self.parts + started.astype(np.int64)


@lru_cache(maxsize=4096)
def _tijdeman(parts: tuple[int, ...]) -> np.ndarray:
    """Item of each turn of one period."""
    weights = np.asarray(parts, dtype=np.int64)
    period, n = int(weights.sum()), len(weights)
    items = np.zeros(period, dtype=np.int64)
    given = np.zeros(n, dtype=np.int64)
    slack = max(2 * n - 2, 1)
    for turn in range(period):
        owed = weights * (turn + 1) - period * given  # in units of 1 / period
        due = (period * (slack - 1) - slack * owed) / np.maximum(weights, 1)
        due[(owed * slack < period) | (weights == 0)] = np.inf
        items[turn] = choice = int(np.argmin(due)) if n > 1 else 0
        given[choice] += 1
    assert (given == weights).all()
    return items


def whole_parts(weights: Sequence[float], most: int) -> list[int]:
    """Whole numbers in proportion to `weights`: exactly if a common denominator up to `most` exists, else rounded to
    `most` parts by largest remainder. Positive weights keep at least one part."""
    least = Fraction(1, 10**9)
    fractions = [max(Fraction(str(w)).limit_denominator(10**9), least) if w > 0 else Fraction(0) for w in weights]
    total = sum(fractions)
    shares = [f / total for f in fractions]
    denominator = lcm(*(s.denominator for s in shares))
    if denominator <= most:
        return [int(s * denominator) for s in shares]
    exact = [float(s * most) for s in shares]
    parts = [max(int(x), 1 if x > 0 else 0) for x in exact]
    for i in sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])[: max(most - sum(parts), 0)]:
        parts[i] += 1
    return parts
