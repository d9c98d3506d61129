"""Exact shares over time. In: whole-number weights of items. Out: which item has each turn. No state, no chance."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import floor, lcm, log10

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

    def counts(self, turns: int) -> np.ndarray:
        """How many of the first `turns` turns each item had, shape (items,)."""
        whole, rest = divmod(turns, self.period)
        return whole * self.parts + np.bincount(self.item(np.arange(rest)), minlength=len(self.parts))


class Lines:
    """Lines that deal turns, several by the same schedule, to things that they share: all lines are answered at once.

    Line l deals by schedule s = `schedule_of_line[l]`: `schedules[s]`, whose item i is `things[s][i]`, of 0..count-1.
    """

    def __init__(
        self, schedules: Sequence[Schedule], things: Sequence[np.ndarray], schedule_of_line: np.ndarray, count: int
    ) -> None:
        widths = np.array([len(t) for t in things])
        ends = np.cumsum(widths)
        # A slot is an item of a schedule. Its turns are found by bisection: sorted keys, slot by slot.
        self._span = 1 + max(s.period for s in schedules)
        turns = [s.item(np.arange(s.period)) for s in schedules]
        self._keys = np.concatenate([
            np.sort((end - width + t) * self._span + np.arange(len(t)))
            for end, width, t in zip(ends, widths, turns, strict=True)
        ])  # fmt: skip
        self._slot_starts = np.searchsorted(self._keys, np.arange(ends[-1]) * self._span)
        self._thing_of_turn = np.concatenate([t[turn] for t, turn in zip(things, turns, strict=True)])
        self._count = count
        self._period = np.array([s.period for s in schedules])[schedule_of_line]
        self._start = np.cumsum([0, *(s.period for s in schedules)])[schedule_of_line]
        # Every line with each of its slots.
        self._line = np.repeat(np.arange(len(schedule_of_line)), widths[schedule_of_line])
        first = np.repeat(np.cumsum(widths[schedule_of_line]) - widths[schedule_of_line], widths[schedule_of_line])
        self._slot = (ends - widths)[schedule_of_line][self._line] + np.arange(len(self._line)) - first
        self._part = np.concatenate([s.parts for s in schedules])[self._slot]
        self._thing = np.concatenate(things)[self._slot]

    def item(self, lines: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """Thing that has each of `turns` of the line beside it. Same shape."""
        return self._thing_of_turn[self._start[lines] + turns % self._period[lines]]

    def counts(self, turns: np.ndarray) -> np.ndarray:
        """How many turns each thing has had, after `turns[l]` turns of each line l: shape (count,)."""
        whole, rest = np.divmod(turns, self._period)
        begun = np.searchsorted(self._keys, self._slot * self._span + rest[self._line]) - self._slot_starts[self._slot]
        given = whole[self._line] * self._part + begun
        # bincount adds as float64: exact below 2**53 rows.
        return np.bincount(self._thing, weights=given, minlength=self._count).astype(np.int64)


def earlier_equals(values: np.ndarray) -> np.ndarray:
    """How often each value occurs before its place: [7, 8, 7, 7] -> [0, 0, 1, 2]."""
    order = np.argsort(values, kind="stable")
    earlier = np.empty_like(values)
    earlier[order] = np.arange(len(values)) - np.searchsorted(values[order], values[order], side="left")
    return earlier


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
    # By a power of ten, which keeps decimals exact: only ratios count, however small all weights are.
    scale = Fraction(10) ** -floor(log10(max(weights)))
    scaled = [Fraction(str(w)) * scale for w in weights]
    fractions = [max(w.limit_denominator(10**9), least) if w > 0 else w for w in scaled]
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
