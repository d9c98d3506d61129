"""The plan: which rows, in which languages, a step trains on. In: partitions, a mix, a seed. Out: a step's rows. Pure.

No sampler state anywhere. `Plan.batch(step)` costs the same for step 3 and step 3 million, so any worker, restart or
test can ask for any step, and nothing depends on how many workers there are.

The mix is exact, not drawn: a `Schedule` deals out kinds, then language pairs, then partitions so that after any number
of turns each has had its share to within one turn. Rows are dealt from a fresh permutation each epoch; a group is used
at most once an epoch of its partition, and never twice in one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hybrid_ir.batches.permutation import epoch_order, first_half
from hybrid_ir.batches.schedule import Lines, Schedule, whole_parts
from hybrid_ir.config import Kind
from hybrid_ir.data import ROWS_PER_BLOCK, Partition
from hybrid_ir.types import InputError

MOST_PARTS = 1 << 15
"""A third of a second to lay out, 256 KiB to hold."""
Pair = tuple[str, str]
"""(query language, passage language)"""


@dataclass(frozen=True)
class BatchPlan:
    """The rows of one global batch; B is the global batch size. Row i is row `row_B[i]` of partition `partition_B[i]`,
    asked in `pairs[i][0]` and answered in `pairs[i][1]`."""

    step: int
    kind: Kind
    partition_B: np.ndarray
    row_B: np.ndarray
    pairs: tuple[Pair, ...]


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


@dataclass(frozen=True, eq=False)
class Plan:
    """The whole training's batches. Build it with `make_plan`."""

    partitions: tuple[Partition, ...]
    unused: tuple[Partition, ...]
    batch_size: int
    seed: int
    _kind_schedule: Schedule
    _deals: tuple[_Deal, ...]  # one a kind

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of its batches, sorted."""
        return tuple(sorted({language for deal in self._deals for pair in deal.pairs for language in pair}))

    def batch(self, step: int) -> BatchPlan:
        """The global batch of `step`, counted from 0."""
        which = int(self._kind_schedule.item(np.asarray(step)))
        deal = self._deals[which]
        batches = self._kind_schedule.counts(step)
        nth, before = int(batches[which]), self._pair_rows(batches)
        turns = nth * self.batch_size + np.arange(self.batch_size) if deal.per_row else np.full(self.batch_size, nth)
        pair_B = deal.schedule.item(turns)
        # How many rows of its pair came before each row, over the whole training.
        turn_B = before[which][pair_B] + _earlier_equals(pair_B)
        first_line = sum(map(len, before[:which]))
        partition_B = self._lines.item(first_line + pair_B, turn_B)
        position_B = self._lines.counts(np.concatenate(before))[partition_B] + _earlier_equals(partition_B)
        # By partition: rows that a partition gives come one after another from its blocks.
        order = np.argsort(partition_B, kind="stable")
        partitions = partition_B[order]
        n = self._rows[partitions]
        epochs, places = np.divmod(position_B[order], n)
        row_B = np.empty(self.batch_size, dtype=np.int64)
        row_B[order] = epoch_order(places, n, (self.seed, partitions, epochs))
        return BatchPlan(step, deal.kind, partition_B, row_B, tuple(map(deal.pairs.__getitem__, pair_B.tolist())))

    def realised(self, steps: int) -> dict[Kind, dict[Pair, int]]:
        """Rows that the first `steps` batches give to each language pair of each kind, in closed form."""
        rows = self._pair_rows(self._kind_schedule.counts(steps))
        return {d.kind: dict(zip(d.pairs, n.tolist(), strict=True)) for d, n in zip(self._deals, rows, strict=True)}

    def kind_counts(self, steps: int) -> dict[Kind, int]:
        """Batches of each kind among the first `steps`."""
        return dict(zip((d.kind for d in self._deals), self._kind_schedule.counts(steps).tolist(), strict=True))

    def asked(self) -> dict[Kind, dict[Pair, float]]:
        """Share of all rows that each pair of each kind is to have; sums to 1."""
        kinds = self._kind_schedule.parts / self._kind_schedule.period
        return {
            deal.kind: dict(zip(deal.pairs, (share * deal.schedule.parts / deal.schedule.period).tolist(), strict=True))
            for deal, share in zip(self._deals, kinds, strict=True)
        }

    def epochs(self, steps: int) -> dict[str, float]:
        """How often each partition has been gone through after `steps` batches."""
        rows = self._lines.counts(np.concatenate(self._pair_rows(self._kind_schedule.counts(steps))))
        return {p.name: float(n / p.rows) for p, n in zip(self.partitions, rows, strict=True)}

    def _pair_rows(self, batches: np.ndarray) -> list[np.ndarray]:
        """For each kind, the rows that its pairs have had in the first `batches[i]` of its batches."""
        size = self.batch_size
        deals = zip(self._deals, batches.tolist(), strict=True)
        return [d.schedule.counts(n * size) if d.per_row else d.schedule.counts(n) * size for d, n in deals]

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.array([p.rows for p in self.partitions], dtype=np.int64)

    @cached_property
    def _lines(self) -> Lines:
        """A line is a pair of a kind: it deals its rows to the partitions that can serve it."""
        servings = [serving for deal in self._deals for serving in deal.serving]
        schedules, things = [s.schedule for s in servings], [s.partitions for s in servings]
        serving_of_line = np.empty(sum(len(deal.pairs) for deal in self._deals), dtype=np.int64)
        start = n = 0
        for deal in self._deals:
            for serving in deal.serving:
                serving_of_line[start + serving.pairs] = n
                n += 1
            start += len(deal.pairs)
        return Lines(schedules, things, serving_of_line, len(self.partitions))


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
    return Plan(tuple(usable), tuple(unused), batch_size, seed, Schedule(parts), tuple(deals))


def _deal(
    kind: Kind,
    partitions: Sequence[Partition],
    languages: Sequence[str],
    required: bool,
    cross_lingual: str,
    language_temperature: float | None,
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
    if language_temperature is not None:
        parts = whole_parts([(size / max(sizes)) ** (1 / language_temperature) for size in sizes], 10_000)
    return _Deal(
        kind=kind,
        pairs=tuple(served),
        schedule=Schedule(parts),
        per_row=kind == "multilingual" or (kind == "cross_lingual" and cross_lingual == "per_row"),
        serving=tuple(
            _Serving(np.array(members), np.array(able), Schedule(_parts_by_size([partitions[i].rows for i in able])))
            for able, members in by_partitions.items()
        ),
    )


def _parts_by_size(rows: Sequence[int]) -> list[int]:
    """Parts in proportion to the rows of partitions. A schedule is a table of their sum, so they are no finer than it
    takes to give every partition its share to within a tenth, or than MOST_PARTS allows."""
    share = np.asarray(rows) / sum(rows)
    for most in (1 << 10, 1 << 13, MOST_PARTS):
        parts = whole_parts(rows, most)
        if (np.abs(np.asarray(parts) / sum(parts) - share) <= 0.1 * share).all():
            break
    return parts


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
