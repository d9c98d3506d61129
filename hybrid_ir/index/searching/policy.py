"""One order of several languages' passages by a stated policy: bonuses, quotas, and one hit for all translations.

In: what a search asks, and a policy. Out: what to ask for each stratum of languages, and of their hits those to show.

A stratum is the languages that have one bonus and no quota, or one language that has a quota. In it the order by score
is the order by the policy. So the best of the whole are among the best of the strata, and each of these is an ordinary
search with a filter of languages, which any cut into shards answers alike. Nothing of this is done where nobody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hybrid_ir.index.query import Hit, ShardQuery


@dataclass(frozen=True)
class Policy:
    """What languages are worth to who searches. The empty policy is the order by score."""

    bonuses: Mapping[str, float] = field(default_factory=dict)
    """Language -> what is added to the score of its passages."""
    quotas: Mapping[str, int] = field(default_factory=dict)
    """Language -> how many hits of it there may be."""
    quota_of_others: int | None = None
    """The quota of each language that `quotas` does not name; None = none of them has one."""
    group_by: str | None = None
    """Metadata key whose equal values are one group, of which one passage is a hit; None = every passage is its own."""


class Stratum(NamedTuple):
    """Languages whose passages the policy orders by score alone."""

    query: ShardQuery
    bonus: float
    quota: int | None


class Ranked(NamedTuple):
    """A hit in the order of a policy. Sorting puts the best first: equal sums by score, and equal scores by id."""

    minus_rank: float
    minus_score: float
    global_id: int
    stratum: int
    hit: Hit

    @property
    def score(self) -> float:
        """Score and bonus: what the order is by."""
        return -self.minus_rank


class Chosen(NamedTuple):
    """What a policy makes of the candidates of one query."""

    hits: list[Ranked]
    """At most k, best first."""
    also: list[list[Ranked]]
    """For each hit the others of its group among the candidates, best first."""
    cut: bool
    """Whether there are fewer than k hits, and more may stand behind the candidates."""


def strata_of(policy: Policy, query: ShardQuery, languages: Collection[str]) -> list[Stratum]:
    """What to search for. `languages` are those of the index, and `query.k` is how many hits are wanted; with groups,
    how many passages of each stratum are to be considered."""
    asked = sorted(languages if query.languages is None else query.languages)
    members: dict[tuple[float, int | None, str | None], list[str]] = {}
    for language in asked:
        quota = policy.quotas.get(language, policy.quota_of_others)
        alike = policy.bonuses.get(language, 0.0), quota, None if quota is None else language
        members.setdefault(alike, []).append(language)
    strata = []
    for (bonus, quota, _), names in members.items():
        # Of a group many may be of one language, so a quota of hits says nothing of how many to look at. One more than
        # the quota, in case the passage that others shall be like is among them.
        k = query.k if quota is None or policy.group_by is not None else min(query.k, quota + 1)
        whole = query.languages is None and len(names) == len(asked)
        # All strata look as deep as the whole would: a lossy codec's candidates depend on `among`.
        among = query.k if query.among is None else query.among
        strata.append(Stratum(ShardQuery(k, None if whole else tuple(names), query.where, among, False), bonus, quota))
    return strata


def choose(
    found: Sequence[Sequence[Hit]],
    strata: Sequence[Stratum],
    k: int,
    *,
    min_score: float | None = None,
    own: tuple[int, int] | None = None,
    group_of: Callable[[Hit], Hashable | None] | None = None,
) -> Chosen:
    """The k first of the order, from the hits of each stratum, best first.

    Left out are hits below `min_score`, by their own score, and `own` (shard, row). `group_of` is the group of a hit,
    None for one that is alone. Going down the order, a hit is passed over when its group is there already or its
    language has as many as it may.
    """
    order: list[Ranked] = []
    left, goes_on = [0] * len(strata), [False] * len(strata)
    for n, (stratum, hits) in enumerate(zip(strata, found, strict=True)):
        kept = [hit for hit in hits if min_score is None or hit.score >= min_score]
        # A stratum that gave all that was asked of it may have more, unless those are too bad already.
        goes_on[n] = len(hits) == stratum.query.k and len(kept) == len(hits)
        kept = [hit for hit in kept if (hit.shard, hit.row) != own]
        order += [Ranked(-(hit.score + stratum.bonus), -hit.score, hit.global_id, n, hit) for hit in kept]
        left[n] = len(kept)
    order.sort()
    chosen: list[Ranked] = []
    counts, shown, cut = [0] * len(strata), set(), False
    groups = [None if group_of is None else group_of(one.hit) for one in order]
    for one, group in zip(order, groups, strict=True):
        n, quota = one.stratum, strata[one.stratum].quota
        if (group is None or group not in shown) and (quota is None or counts[n] < quota):
            chosen.append(one)
            counts[n] += 1
            shown.add(group)
            if len(chosen) == k:
                break
        left[n] -= 1
        if left[n] == 0 and goes_on[n] and (quota is None or counts[n] < quota):
            cut = True  # the next of the order may be one of this stratum that was not looked at
            break
    if group_of is None:
        return Chosen(chosen, [[] for _ in chosen], cut)
    of_group: dict[Hashable, list[Ranked]] = {}
    for one, group in zip(order, groups, strict=True):
        if group is not None and group in shown:
            of_group.setdefault(group, []).append(one)
    also = [[other for other in of_group.get(group_of(one.hit), ()) if other is not one] for one in chosen]
    return Chosen(chosen, also, cut)
