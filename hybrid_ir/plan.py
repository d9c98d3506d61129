"""Which rows, in which languages, make up the batch of a step: a pure function of (store, settings, seed, step).

No sampler state anywhere. `Plan.batch(step)` costs the same for step 3 and step 3 million, so any worker, restart or
test can ask for any step, and nothing depends on how many workers there are.

The mix is exact, not drawn: a `Schedule` deals out kinds, then language pairs, then partitions so that after any number
of turns each has had its share to within one turn. Rows are dealt from a fresh permutation each epoch; a group is used
at most once an epoch of its partition, and never twice in one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import lcm

import numpy as np

from hybrid_ir.config import Kind
from hybrid_ir.types import InputError

Pair = tuple[str, str]
"""(query language, passage language)"""

ROWS_PER_BLOCK = 1024
"""Rows of a Parquet row group. A permutation deals a block's rows together, so that reads stay nearly sequential.
(A power of 4, so that the Feistel network below needs no walking within a block.)"""


@dataclass(frozen=True)
class Partition:
    """Rows of the store that all have the same languages."""

    name: str
    languages: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class BatchPlan:
    """The rows of one global batch; B is the global batch size. Row i is row `row_B[i]` of partition `partition_B[i]`,
    asked in `pairs[i][0]` and answered in `pairs[i][1]`."""

    step: int
    kind: Kind
    partition_B: np.ndarray
    row_B: np.ndarray
    pairs: tuple[Pair, ...]


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


@dataclass(frozen=True)
class _Serving:
    """Language pairs that the same partitions serve, and how a pair's rows are dealt to those partitions."""

    pairs: np.ndarray  # indices into _Deal.pairs
    partitions: np.ndarray  # indices into Plan.partitions
    schedule: Schedule


@dataclass(frozen=True)
class _Deal:
    """How one kind chooses each row's language pair, and each pair its partition."""

    kind: Kind
    pairs: tuple[Pair, ...]
    schedule: Schedule
    per_row: bool
    serving: tuple[_Serving, ...]


class Plan:
    """The whole training's batches. Build it with `make_plan`."""

    def __init__(
        self,
        partitions: Sequence[Partition],
        unused: Sequence[Partition],
        kinds: Sequence[Kind],
        kind_schedule: Schedule,
        deals: Sequence[_Deal],
        batch_size: int,
        seed: int,
    ) -> None:
        self.partitions = tuple(partitions)
        self.unused = tuple(unused)
        self.kinds = tuple(kinds)
        self.batch_size = batch_size
        self.seed = seed
        self._kind_schedule = kind_schedule
        self._deals = tuple(deals)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of its batches, sorted."""
        return tuple(sorted({language for deal in self._deals for pair in deal.pairs for language in pair}))

    def batch(self, step: int) -> BatchPlan:
        """The global batch of `step`, counted from 0."""
        which = int(self._kind_schedule.item(np.asarray(step)))
        deal = self._deals[which]
        nth = self._kind_counts(step)[which]
        cursor = self._rows_before(step)
        turns = nth * self.batch_size + np.arange(self.batch_size) if deal.per_row else np.full(self.batch_size, nth)
        pair_B = deal.schedule.item(turns)
        # How many rows of its pair came before each row, over the whole training.
        turn_B = self._pair_rows(deal, int(nth))[pair_B] + _earlier_equals(pair_B)
        partition_B = np.empty(self.batch_size, dtype=np.int64)
        row_B = np.empty(self.batch_size, dtype=np.int64)
        for serving in deal.serving:
            rows = np.isin(pair_B, serving.pairs)
            partition_B[rows] = serving.partitions[serving.schedule.item(turn_B[rows])]
        for partition in np.unique(partition_B):
            rows = np.flatnonzero(partition_B == partition)
            row_B[rows] = self._permuted(int(partition), cursor[partition] + np.arange(len(rows)))
        return BatchPlan(step, deal.kind, partition_B, row_B, tuple(deal.pairs[p] for p in pair_B))

    def realised(self, steps: int) -> dict[Kind, dict[Pair, int]]:
        """Rows that the first `steps` batches give to each language pair of each kind, in closed form."""
        return {
            deal.kind: {pair: int(n) for pair, n in zip(deal.pairs, self._pair_rows(deal, int(nth)), strict=True)}
            for deal, nth in zip(self._deals, self._kind_counts(steps), strict=True)
        }

    def kind_counts(self, steps: int) -> dict[Kind, int]:
        """Batches of each kind among the first `steps`."""
        return dict(zip(self.kinds, map(int, self._kind_counts(steps)), strict=True))

    def asked(self) -> dict[Kind, dict[Pair, float]]:
        """Share of all rows that each pair of each kind is to have; sums to 1."""
        kinds = self._kind_schedule.parts / self._kind_schedule.period
        return {
            deal.kind: {
                pair: float(share * part / deal.schedule.period)
                for pair, part in zip(deal.pairs, deal.schedule.parts, strict=True)
            }
            for deal, share in zip(self._deals, kinds, strict=True)
        }

    def epochs(self, steps: int) -> dict[str, float]:
        """How often each partition has been gone through after `steps` batches."""
        rows = self._rows_before(steps)
        return {p.name: float(rows[i] / p.rows) for i, p in enumerate(self.partitions)}

    def _kind_counts(self, steps: int) -> np.ndarray:
        return self._kind_schedule.counts(steps)

    def _pair_rows(self, deal: _Deal, batches: int) -> np.ndarray:
        """Rows that each pair of `deal` has had in the kind's first `batches` batches."""
        if deal.per_row:
            return deal.schedule.counts(batches * self.batch_size)
        return deal.schedule.counts(batches) * self.batch_size

    def _rows_before(self, step: int) -> np.ndarray:
        """Rows that each partition has given before `step`."""
        cursor = np.zeros(len(self.partitions), dtype=np.int64)
        for deal, nth in zip(self._deals, self._kind_counts(step), strict=True):
            rows = self._pair_rows(deal, int(nth))
            for serving in deal.serving:
                cursor[serving.partitions] += serving.schedule.counts(rows[serving.pairs])
        return cursor

    def _permuted(self, partition: int, positions: np.ndarray) -> np.ndarray:
        rows = np.empty_like(positions)
        n = self.partitions[partition].rows
        for epoch in np.unique(positions // n):
            here = positions // n == epoch
            rows[here] = epoch_order(positions[here] % n, n, (self.seed, partition, int(epoch)))
        return rows


def make_plan(
    partitions: Sequence[Partition],
    *,
    weights: Mapping[Kind, float],
    batch_size: int,
    seed: int,
    cross_lingual: str = "per_row",
    languages: Sequence[str] | None = None,
    language_temperature: float | None = None,
) -> Plan:
    """Check that the data can serve the mix, and lay out its schedules.

    With `languages` given, every one of them, and for cross-lingual batches every ordered pair, must be in the data;
    without, the mix covers what is there. A partition too small to keep a group out of a batch twice is left `unused`.
    Raises InputError for a language or pair that cannot be served, before anything is trained.
    """
    present = sorted({language for p in partitions for language in p.languages})
    for language in languages or ():
        if language not in present:
            raise InputError(f"batch.languages names {language!r}, which the store lacks; it has {', '.join(present)}")
    chosen = tuple(dict.fromkeys(languages)) if languages else tuple(present)
    usable, unused = list(partitions), []
    while True:
        deals = [
            _deal(kind, usable, chosen, bool(languages), cross_lingual, language_temperature, batch_size)
            for kind in weights
        ]
        small = [
            p
            for i, p in enumerate(usable)
            if _most_rows(deals, i, batch_size) > min(first_half(p.rows), p.rows - first_half(p.rows))
        ]
        if not small:
            break
        if len(small) == len(usable):
            counts = ", ".join(f"{p.rows} in {'+'.join(p.languages)}" for p in small[:4])
            enough = 2 * (
                batch_size if batch_size <= 4 * ROWS_PER_BLOCK else -(-batch_size // ROWS_PER_BLOCK) * ROWS_PER_BLOCK
            )
            raise InputError(
                f"batch.size={batch_size} needs at least {enough} groups that share their languages, found {counts}; "
                "lower batch.size or prepare more data"
            )
        unused += small
        usable = [p for p in usable if p not in small]
    used = {int(i) for deal in deals for serving in deal.serving for i in serving.partitions}
    unused += [p for i, p in enumerate(usable) if i not in used]
    parts = whole_parts(list(weights.values()), 100_000)  # exact for an alpha of up to five decimals
    return Plan(usable, unused, list(weights), Schedule(parts), deals, batch_size, seed)


def _deal(
    kind: Kind,
    partitions: Sequence[Partition],
    languages: Sequence[str],
    required: bool,
    cross_lingual: str,
    temperature: float | None,
    batch_size: int,
) -> _Deal:
    if kind == "cross_lingual":
        # By distance around the circle of languages, so that rows dealt one after another differ in both languages.
        n = len(languages)
        pairs = [(languages[i], languages[(i + apart) % n]) for apart in range(1, n) for i in range(n)]
    else:
        pairs = [(a, a) for a in languages]
    by_partitions: dict[tuple[int, ...], list[int]] = {}
    missing, served, sizes = [], [], []
    for pair in pairs:
        able = tuple(i for i, p in enumerate(partitions) if set(pair) <= set(p.languages))
        if not able:
            missing.append(pair)
            continue
        by_partitions.setdefault(able, []).append(len(served))
        served.append(pair)
        sizes.append(sum(partitions[i].rows for i in able))
    if not served or (required and missing):
        have = ", ".join(sorted({"+".join(p.languages) for p in partitions})[:6])
        wanted = " ".join("-".join(dict.fromkeys(pair)) for pair in missing[:6])
        raise InputError(
            f"the store cannot serve {kind} batches of {batch_size}{': ' + wanted if wanted else ''}; its groups come "
            f"in {have or 'no usable languages'}. Set batch.mix.{kind}=0, choose other batch.languages, or prepare "
            "parallel data"
        )
    parts = [1] * len(served)
    if temperature is not None:
        parts = whole_parts([(size / max(sizes)) ** (1 / temperature) for size in sizes], 10_000)
    return _Deal(
        kind=kind,
        pairs=tuple(served),
        schedule=Schedule(parts),
        per_row=kind == "multilingual" or (kind == "cross_lingual" and cross_lingual == "per_row"),
        serving=tuple(
            _Serving(
                np.asarray(members), np.asarray(able), Schedule(whole_parts([partitions[i].rows for i in able], 1024))
            )
            for able, members in by_partitions.items()
        ),
    )


def _earlier_equals(values: np.ndarray) -> np.ndarray:
    """How often each value occurs before its place: [7, 8, 7, 7] -> [0, 0, 1, 2]."""
    order = np.argsort(values, kind="stable")
    earlier = np.empty_like(values)
    earlier[order] = np.arange(len(values)) - np.searchsorted(values[order], values[order], side="left")
    return earlier


def _most_rows(deals: Sequence[_Deal], partition: int, batch_size: int) -> int:
    """A bound on the rows that one batch can take from a partition."""
    most = 0
    for deal in deals:
        rows = []
        for serving in deal.serving:
            share = float(serving.schedule.parts[serving.partitions == partition].sum() / serving.schedule.period)
            if share > 0:
                parts = deal.schedule.parts[serving.pairs] / deal.schedule.period
                # A schedule is within one turn of its share at both ends of a batch, and so is the one behind it.
                rows += list((parts * batch_size if deal.per_row else batch_size + 0 * parts) * share + 4)
        bound = (sum(rows) if deal.per_row else max(rows)) if rows else 0
        most = max(most, min(batch_size, int(np.ceil(bound))))
    return most


def epoch_order(positions: np.ndarray, n: int, key: tuple[int, int, int]) -> np.ndarray:
    """Rows at `positions` of the order in which an epoch visits rows 0..n-1. A bijection; nothing of size n is made.

    The first half of the rows always comes before the second (which rows those are is already random: the store is
    shuffled). So a batch that straddles two epochs takes the end of one half and the start of the other, and cannot
    hold a group twice as long as it takes no more rows than either half has. Within a half, blocks are visited in a
    random order and rows within a block too; the short block of a half comes last.
    """
    half = first_half(n)
    rows = np.empty_like(positions)
    for which, (start, size) in enumerate(((0, half), (half, n - half))):
        inside = (positions >= start) & (positions < start + size)
        if not inside.any():
            continue
        block, offset = np.divmod(positions[inside] - start, ROWS_PER_BLOCK)
        full = size // ROWS_PER_BLOCK
        place = block.copy()
        whole = block < full
        if whole.any():
            place[whole] = permute(block[whole], full, (*key, which))
        shuffled = np.empty_like(offset)
        for b in np.unique(place):
            mine = place == b
            length = ROWS_PER_BLOCK if b < full else size - full * ROWS_PER_BLOCK
            shuffled[mine] = permute(offset[mine], length, (*key, which, int(b)))
        rows[inside] = start + place * ROWS_PER_BLOCK + shuffled
    return rows


def first_half(n: int) -> int:
    """Rows of the half that an epoch visits first: whole blocks, unless there are too few for that to be about half."""
    return (n + 1) // 2 if n < 8 * ROWS_PER_BLOCK else n // (2 * ROWS_PER_BLOCK) * ROWS_PER_BLOCK


def permute(values: np.ndarray, n: int, key: Sequence[int]) -> np.ndarray:
    """A keyed pseudo-random bijection of 0..n-1, evaluated at `values`: six Feistel rounds on the smallest even number
    of bits that holds n, walked until the value falls below n (Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002)."""
    if n <= 1:
        return values.copy()
    half_bits = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    rounds = np.random.SeedSequence([int(k) for k in key]).generate_state(6, np.uint64)
    out = values.astype(np.uint64)
    walking = np.ones(out.shape, dtype=bool)
    while walking.any():
        left, right = out[walking] >> half_bits, out[walking] & mask
        for round_key in rounds:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        out[walking] = (left << half_bits) | right
        walking = out >= n
    return out.astype(values.dtype)


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea, Flood 2014); wraps around on purpose."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
