"""The plan: which rows, in which languages, a step trains on. In: partitions, a mix, a seed. Out: a step's rows. Pure.

No sampler state anywhere. `Plan.batch(step)` costs the same for step 3 and step 3 million, so any worker, restart or
test can ask for any step, and nothing depends on how many workers there are.

The mix is exact, not drawn: a `Schedule` deals out kinds, then sources where they have weights (`deals.py`), then
language pairs, then partitions so that after any number of turns each has had its share to within one turn. Rows are
dealt from a fresh permutation each epoch; a group is used at most once an epoch of its partition, and never twice in
one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hybrid_ir.batches.deals import KindDeals, Pair, deal_kind, most_rows
from hybrid_ir.batches.permutation import epoch_order, first_half
from hybrid_ir.batches.schedule import Lines, Schedule, earlier_equals, whole_parts
from hybrid_ir.config import Kind
from hybrid_ir.data import ROWS_PER_BLOCK, Partition
from hybrid_ir.types import InputError


@dataclass(frozen=True)
class BatchPlan:
    """The rows of one global batch; B is the global batch size. Row i is row `row_B[i]` of partition `partition_B[i]`,
    asked in `pairs[i][0]` and answered in `pairs[i][1]`."""

    step: int
    kind: Kind
    partition_B: np.ndarray
    row_B: np.ndarray
    pairs: tuple[Pair, ...]
    sources: tuple[str, ...] = ()
    """Of each row; () where sources have no part in the mix."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The whole training's batches. Build it with `make_plan`."""

    partitions: tuple[Partition, ...]
    unused: tuple[Partition, ...]
    batch_size: int
    seed: int
    _kind_schedule: Schedule
    _kinds: tuple[KindDeals, ...]

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of its batches, sorted."""
        return tuple(sorted({language for pair in self._pairs for language in pair}))

    def batch(self, step: int) -> BatchPlan:
        """The global batch of `step`, counted from 0."""
        which = int(self._kind_schedule.item(np.asarray(step)))
        kind = self._kinds[which]
        batches = self._kind_schedule.counts(step)
        before = np.concatenate(self._line_rows(batches))
        line_B = self._first_line[which] + kind.lines(int(batches[which]), self.batch_size)
        # How many rows of its line came before each row, over the whole training.
        partition_B = self._lines.item(line_B, before[line_B] + earlier_equals(line_B))
        position_B = self._lines.counts(before)[partition_B] + earlier_equals(partition_B)
        # By partition: rows that a partition gives come one after another from its blocks.
        order = np.argsort(partition_B, kind="stable")
        partitions = partition_B[order]
        n = self._rows[partitions]
        epochs, places = np.divmod(position_B[order], n)
        row_B = np.empty(self.batch_size, dtype=np.int64)
        row_B[order] = epoch_order(places, n, (self.seed, partitions, epochs))
        lines = line_B.tolist()
        pairs = tuple(map(self._pairs.__getitem__, lines))
        sources = tuple(map(self._sources.__getitem__, lines)) if self._sources else ()
        return BatchPlan(step, kind.kind, partition_B, row_B, pairs, sources)

    def realised(self, steps: int) -> dict[Kind, dict[Pair, int]]:
        """Rows that the first `steps` batches give to each language pair of each kind, in closed form."""
        rows = self._line_rows(self._kind_schedule.counts(steps))
        return {
            each.kind: _by_name(each.line_pairs, each_rows.tolist())
            for each, each_rows in zip(self._kinds, rows, strict=True)
        }

    def realised_sources(self, steps: int) -> dict[Kind, dict[str, int]]:
        """Rows that the first `steps` batches take from each source for each kind; {} where sources have no part."""
        rows = self._line_rows(self._kind_schedule.counts(steps))
        return {
            each.kind: _by_name(each.line_sources, each_rows.tolist())
            for each, each_rows in zip(self._kinds, rows, strict=True)
            if each.line_sources
        }

    def kind_counts(self, steps: int) -> dict[Kind, int]:
        """Batches of each kind among the first `steps`."""
        return dict(zip((each.kind for each in self._kinds), self._kind_schedule.counts(steps).tolist(), strict=True))

    def asked(self) -> dict[Kind, dict[Pair, float]]:
        """Share of all rows that each pair of each kind is to have; sums to 1."""
        return {
            each.kind: _by_name(each.line_pairs, (share * each.line_shares).tolist())
            for each, share in self._kinds_with_shares
        }

    def asked_sources(self) -> dict[Kind, dict[str, float]]:
        """Share of all rows that are to come from each source for each kind; {} where sources have no part."""
        return {
            each.kind: _by_name(each.line_sources, (share * each.line_shares).tolist())
            for each, share in self._kinds_with_shares
            if each.line_sources
        }

    def epochs(self, steps: int) -> dict[str, float]:
        """How often each partition has been gone through after `steps` batches."""
        rows = self._lines.counts(np.concatenate(self._line_rows(self._kind_schedule.counts(steps))))
        return {p.name: float(n / p.rows) for p, n in zip(self.partitions, rows, strict=True)}

    def _line_rows(self, batches: np.ndarray) -> list[np.ndarray]:
        """For each kind, the rows that its lines have had in the first `batches[i]` of its batches."""
        return [each.rows_before(n, self.batch_size) for each, n in zip(self._kinds, batches.tolist(), strict=True)]

    @property
    def _kinds_with_shares(self) -> zip[tuple[KindDeals, float]]:
        return zip(self._kinds, self._kind_schedule.parts / self._kind_schedule.period, strict=True)

    @cached_property
    def _pairs(self) -> tuple[Pair, ...]:
        """Language pair of each line."""
        return tuple(pair for each in self._kinds for pair in each.line_pairs)

    @cached_property
    def _sources(self) -> tuple[str, ...]:
        """Source of each line; () where sources have no part."""
        return tuple(source for each in self._kinds for source in each.line_sources)

    @cached_property
    def _first_line(self) -> np.ndarray:
        return np.cumsum([0, *(len(each.line_pairs) for each in self._kinds)])

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.array([p.rows for p in self.partitions], dtype=np.int64)

    @cached_property
    def _lines(self) -> Lines:
        """A line is a pair of a kind, and of a source: it deals its rows to the partitions that can serve it."""
        deals = [deal for each in self._kinds for deal in each.deals]
        servings = [serving for deal in deals for serving in deal.serving]
        schedules, things = [s.schedule for s in servings], [s.partitions for s in servings]
        serving_of_line = np.empty(len(self._pairs), dtype=np.int64)
        start = n = 0
        for deal in deals:
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
    sources: Mapping[Kind, Mapping[str, float]] | None = None,
    one_source: bool = False,
) -> Plan:
    """Check that the data can serve the mix, and lay out its schedules.

    With `languages` given, every one of them, and for cross-lingual batches every ordered pair, must be in the data;
    without, the mix covers what is there. `sources` has weights of sources for each kind: then, and with `one_source`,
    each partition must be of one source. A partition too small to keep a group out of a batch twice is left `unused`.
    Raises InputError for a language, pair or source that cannot be served, before anything is trained.
    """
    present = sorted({language for p in partitions for language in p.languages})
    for language in languages or ():
        if language not in present:
            raise InputError(f"batch.languages names {language!r}, which the store lacks; it has {', '.join(present)}")
    chosen = tuple(dict.fromkeys(languages)) if languages else tuple(present)
    named = {name for each in (sources or {}).values() for name in each}
    usable = [p for p in partitions if sources is None or p.source in named]
    unused = [p for p in partitions if p not in usable]
    while True:
        kinds = tuple(
            deal_kind(
                kind,
                usable,
                languages=chosen,
                required=bool(languages),
                cross_lingual=cross_lingual,
                language_temperature=language_temperature,
                batch_size=batch_size,
                sources=None if sources is None else sources[kind],
                one_source=one_source,
            )
            for kind in weights
        )
        most = {p.name: most_rows(kinds, i, batch_size) for i, p in enumerate(usable)}
        small = [p for p in usable if most[p.name] > min(first_half(p.rows), p.rows - first_half(p.rows))]
        if not small:
            break
        for name in sorted(named) or [None]:
            own = [p for p in usable if name is None or p.source == name]
            if all(p in small for p in own):
                raise InputError(_too_small(own, name, batch_size, min(most[p.name] for p in own)))
        unused += small
        usable = [p for p in usable if p not in small]
    used = {int(i) for kind in kinds for deal in kind.deals for serving in deal.serving for i in serving.partitions}
    unused += [p for i, p in enumerate(usable) if i not in used]
    parts = whole_parts(list(weights.values()), 100_000)  # exact for an alpha of up to five decimals
    return Plan(tuple(usable), tuple(unused), batch_size, seed, Schedule(parts), kinds)


def _too_small(partitions: Sequence[Partition], source: str | None, batch_size: int, most: int) -> str:
    counts = ", ".join(f"{p.rows} in {'+'.join(p.languages)}" for p in partitions[:4])
    rows = batch_size if source is None else most
    enough = 2 * (rows if rows <= 4 * ROWS_PER_BLOCK else -(-rows // ROWS_PER_BLOCK) * ROWS_PER_BLOCK)
    of, remedy = (f" of {source!r}", ", its weight in batch.sources,") if source else ("", "")
    return (
        f"batch.size={batch_size} needs at least {enough} groups{of} that share their languages, found {counts}; "
        f"lower batch.size{remedy} or prepare more data"
    )


def _by_name(names: Iterable[Any], values: Iterable[Any]) -> dict[Any, Any]:
    """The sum of each name's values, in the order in which they come first."""
    sums: dict[Any, Any] = {}
    for name, value in zip(names, values, strict=True):
        sums[name] = sums.get(name, 0) + value
    return sums
