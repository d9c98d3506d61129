"""How each kind of batch is shared out: among sources, language pairs and partitions. In: partitions. Out: deals. Pure.

Without weights of sources a kind has one deal, of all partitions. With them it has one a source, and a schedule over
these: of whole batches where a batch is of one source, else of the rows within a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from hybrid_ir.batches.schedule import Schedule, earlier_equals, whole_parts
from hybrid_ir.config import Kind
from hybrid_ir.data import Partition
from hybrid_ir.types import InputError

MOST_PARTS = 1 << 15
"""A third of a second to lay out, 256 KiB to hold."""
Pair = tuple[str, str]
"""(query language, passage language)"""


@dataclass(frozen=True)
class Serving:
    """Language pairs that the same partitions serve, and how a pair's rows are dealt to those partitions."""

    pairs: np.ndarray  # indices into Deal.pairs
    partitions: np.ndarray  # indices into Plan.partitions
    schedule: Schedule


@dataclass(frozen=True)
class Deal:
    """How each row's language pair is chosen, and each pair's partition: for a kind, or for one source of a kind."""

    source: str | None
    pairs: tuple[Pair, ...]
    schedule: Schedule
    serving: tuple[Serving, ...]


@dataclass(frozen=True)
class KindDeals:
    """The batches of one kind. A *line* is a language pair of one deal: lines are numbered deal by deal."""

    kind: Kind
    per_row: bool
    """Whether each row has its own language pair."""
    mixed: bool
    """Whether `schedule` deals out the rows of a batch, and not whole batches. All deals have the same pairs then."""
    deals: tuple[Deal, ...]
    schedule: Schedule
    """Turns of each of `deals`."""

    def lines(self, nth: int, size: int) -> np.ndarray:
        """The line of each row of the `nth` batch of the kind, which has `size` rows."""
        rows = np.arange(size)
        if self.mixed and not self.per_row:
            # A pair's rows go on in the schedule where its last batch ended, so that each pair has each source's share.
            shared = self.deals[0].schedule
            pair = int(shared.item(np.asarray(nth)))
            nth_of_pair = int(shared.counts(nth)[pair])
            return self._starts[self.schedule.item(self._offset(pair, nth_of_pair, size) + rows)] + pair
        if self.mixed:
            deal_B = self.schedule.item(nth * size + rows)
            turn_B = self.schedule.counts(nth * size)[deal_B] + earlier_equals(deal_B)
            pair_B = np.empty(size, dtype=np.int64)
            for number in np.unique(deal_B):
                here = deal_B == number
                pair_B[here] = self.deals[number].schedule.item(turn_B[here])
            return self._starts[deal_B] + pair_B
        number = int(self.schedule.item(np.asarray(nth)))
        nth_of_deal = int(self.schedule.counts(nth)[number])
        turns = nth_of_deal * size + rows if self.per_row else np.full(size, nth_of_deal)
        return self._starts[number] + self.deals[number].schedule.item(turns)

    def rows_before(self, batches: int, size: int) -> np.ndarray:
        """Rows that each line has had in the first `batches` batches of the kind, shape (lines,)."""
        if self.mixed and not self.per_row:
            rows = np.zeros((len(self.deals), len(self.deals[0].pairs)), dtype=np.int64)
            for pair, n in enumerate(self.deals[0].schedule.counts(batches).tolist()):
                begin, end = self._offset(pair, 0, size), self._offset(pair, n, size)
                rows[:, pair] = self.schedule.counts(end) - self.schedule.counts(begin)
            return rows.ravel()
        turns = self.schedule.counts(batches * size if self.mixed else batches).tolist()
        each = zip(self.deals, turns, strict=True)
        if self.mixed:
            return np.concatenate([deal.schedule.counts(n) for deal, n in each])
        if self.per_row:
            return np.concatenate([deal.schedule.counts(n * size) for deal, n in each])
        return np.concatenate([deal.schedule.counts(n) * size for deal, n in each])

    def _offset(self, pair: int, nth_of_pair: int, size: int) -> int:
        """Where in the schedule of sources a batch of a pair begins. Pairs begin at different places: if all began at
        one, the sources that have the odd row would be the same in all of them."""
        return (pair + nth_of_pair) * size

    @cached_property
    def line_pairs(self) -> tuple[Pair, ...]:
        return tuple(pair for deal in self.deals for pair in deal.pairs)

    @cached_property
    def line_sources(self) -> tuple[str, ...]:
        """() where sources have no part."""
        return tuple(deal.source for deal in self.deals if deal.source is not None for _ in deal.pairs)

    @cached_property
    def line_shares(self) -> np.ndarray:
        """Share of the kind's rows that each line is to have."""
        shares = self.schedule.parts / self.schedule.period
        return np.concatenate([
            share * deal.schedule.parts / deal.schedule.period for deal, share in zip(self.deals, shares, strict=True)
        ])  # fmt: skip

    @cached_property
    def _starts(self) -> np.ndarray:
        """First line of each deal."""
        return np.array([0, *accumulate(len(deal.pairs) for deal in self.deals)])[:-1]


def deal_kind(
    kind: Kind,
    partitions: Sequence[Partition],
    *,
    languages: Sequence[str],
    required: bool,
    cross_lingual: str,
    language_temperature: float | None,
    batch_size: int,
    sources: Mapping[str, float] | None,
    one_source: bool,
) -> KindDeals:
    """The deals of a kind over these partitions, whose pairs are of `languages`. `sources` has weights.

    Raises InputError where they cannot serve the kind at all or, if `required`, one of its pairs; where one of
    `sources` cannot; and where batches mix sources and one of them lacks a pair that another has.
    """
    per_row = kind == "multilingual" or (kind == "cross_lingual" and cross_lingual == "per_row")
    every = _served(_pairs_of(kind, languages), partitions, None)
    if not any(every.values()) or (required and not all(every.values())):
        raise InputError(
            f"the store cannot serve {kind} batches of {batch_size}{_lacking(every)}; its groups come in "
            f"{_languages_of(partitions)}. Set batch.mix.{kind}=0, choose other batch.languages, or prepare parallel "
            "data"
        )
    if sources is None and not one_source:
        return KindDeals(
            kind, per_row, False, (_deal(None, every, every, partitions, language_temperature),), Schedule([1])
        )
    names = sorted(sources or {p.source for p in partitions if p.source is not None})
    by_source = {name: _served(every, partitions, name) for name in names}
    if sources is None:
        by_source = {name: served for name, served in by_source.items() if any(served.values())}
        weights = [
            float(sum(partitions[i].rows for i in set().union(*served.values()))) for served in by_source.values()
        ]
    else:
        weights = [sources[name] for name in names]
        for name in names:
            _check_source(name, kind, by_source, partitions, required, one_source, batch_size)
    return KindDeals(
        kind,
        per_row,
        not one_source,
        tuple(
            _deal(name, served, served if one_source else every, partitions, language_temperature)
            for name, served in by_source.items()
        ),
        # What a user asks for is exact, up to five decimals; sizes need not be, and a schedule takes time to lay out.
        Schedule(whole_parts(weights, 10_000 if sources is None else 100_000)),
    )


def _pairs_of(kind: Kind, languages: Sequence[str]) -> list[Pair]:
    if kind != "cross_lingual":
        return [(a, a) for a in languages]
    # By distance around the circle of languages, so that rows dealt one after another differ in both languages.
    n = len(languages)
    return [(languages[i], languages[(i + apart) % n]) for apart in range(1, n) for i in range(n)]


Served = dict[Pair, tuple[int, ...]]
"""Language pair -> the partitions that serve it, as indices."""


def _served(pairs: Iterable[Pair], partitions: Sequence[Partition], source: str | None) -> Served:
    """Which of the partitions, or of those of a source, serve each of these pairs."""
    of = [(i, set(p.languages)) for i, p in enumerate(partitions) if source is None or p.source == source]
    return {pair: tuple(i for i, languages in of if set(pair) <= languages) for pair in pairs}


def _check_source(
    name: str,
    kind: Kind,
    by_source: Mapping[str, Served],
    partitions: Sequence[Partition],
    required: bool,
    one_source: bool,
    batch_size: int,
) -> None:
    """Raise InputError for a source with a weight that it cannot have."""
    served = by_source[name]
    own = [p for p in partitions if p.source == name]
    if not any(served.values()) or (required and not all(served.values())):
        raise InputError(
            f"batch.sources: {name!r} cannot serve {kind} batches of {batch_size}{_lacking(served)}; its groups come "
            f"in {_languages_of(own)}. Leave it out, give each kind weights of its own "
            f"(batch.sources={{{kind}: {{...}}}}), or choose other batch.languages"
        )
    if one_source:
        return
    for other, theirs in by_source.items():
        missing = {pair: able for pair, able in served.items() if not able and theirs[pair]}
        if missing:
            each = [{x for p in partitions if p.source == s for x in p.languages} for s in by_source]
            common = ", ".join(sorted(set.intersection(*each)))
            same = f"batch.languages=[{common}], which all of them have, or " if common else ""
            raise InputError(
                f"batch.sources: {name!r} has no groups for {kind} batches{_lacking(missing)}, and {other!r} has; "
                f"sources that are mixed in a batch need the same languages. Set {same}batch.one_source=true"
            )


def _lacking(served: Served) -> str:
    """`: de-en fr`, the first pairs that nothing serves."""
    missing = [pair for pair, able in served.items() if not able][:6]
    return f": {' '.join('-'.join(dict.fromkeys(pair)) for pair in missing)}" if missing else ""


def _languages_of(partitions: Sequence[Partition]) -> str:
    return ", ".join(sorted({"+".join(p.languages) for p in partitions})[:6]) or "no usable languages"


def _deal(
    source: str | None,
    served: Served,
    weighed: Served,
    partitions: Sequence[Partition],
    language_temperature: float | None,
) -> Deal:
    """The deal of the pairs that are served. They weigh what the partitions of `weighed` come to."""
    pairs = [pair for pair, able in served.items() if able]
    by_partitions: dict[tuple[int, ...], list[int]] = {}
    for number, pair in enumerate(pairs):
        by_partitions.setdefault(served[pair], []).append(number)
    parts = [1] * len(pairs)
    if language_temperature is not None:
        sizes = [sum(partitions[i].rows for i in weighed[pair]) for pair in pairs]
        parts = whole_parts([(size / max(sizes)) ** (1 / language_temperature) for size in sizes], 10_000)
    return Deal(
        source=source,
        pairs=tuple(pairs),
        schedule=Schedule(parts),
        serving=tuple(
            Serving(np.array(members), np.array(able), Schedule(_parts_by_size([partitions[i].rows for i in able])))
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


def most_rows(kinds: Sequence[KindDeals], partition: int, batch_size: int) -> int:
    """A bound on the rows that one batch can take from a partition."""
    most = 0
    for kind in kinds:
        for deal, of_deal in zip(kind.deals, kind.schedule.parts / kind.schedule.period, strict=True):
            # A schedule is within one turn of its share at both ends of a batch, and so is the one behind it.
            size = min(batch_size, int(np.ceil(batch_size * of_deal)) + 2) if kind.mixed else batch_size
            rows = []
            for serving in deal.serving:
                share = float(serving.schedule.parts[serving.partitions == partition].sum() / serving.schedule.period)
                if share > 0:
                    parts = deal.schedule.parts[serving.pairs] / deal.schedule.period
                    rows += list((parts * size if kind.per_row else size + 0 * parts) * share + 4)
            bound = (sum(rows) if kind.per_row else max(rows)) if rows else 0
            most = max(most, min(size, int(np.ceil(bound))))
    return most
