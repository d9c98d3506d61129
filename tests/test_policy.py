"""Languages as a policy: bonuses, quotas and groups give what plain Python makes of all scores, from any cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import open_index, unit, write_index

from hybrid_ir.index import query as query_module
from hybrid_ir.index.filters.form import Filter, OneOf
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.query import Hit, ShardQuery, is_flat, merge
from hybrid_ir.index.searching.policy import Policy, Stratum, choose, strata_of

LANGUAGES = ("de", "en", "es", "sw")
D, COUNT = 16, 1500


def make_passages():
    """Groups of one to four passages, each in a language of its own; every tenth group says one thing five times."""
    rng = np.random.default_rng(0)
    languages = rng.choice(LANGUAGES, size=COUNT, p=(0.4, 0.35, 0.24, 0.01))
    passages = []
    for n, language in enumerate(languages):
        metadata = {"year": 2000 + n % 3} if n % 7 == 0 else {"year": 2000 + n % 3, "group": n // 4}
        passages.append(IndexedPassage(f"doc-{n}", f"text {n}", str(language), metadata))
    centres = rng.normal(size=(20, D))
    vectors = unit(centres[rng.integers(20, size=COUNT)] + 0.5 * rng.normal(size=(COUNT, D)))
    for n in range(0, COUNT - 50, 50):
        vectors[n : n + 50 : 10] = vectors[n]
    return passages, vectors


PASSAGES, VECTORS = make_passages()
CUTS = ((1, "language"), (3, "language"), (4, "random"))
CODECS = ("Flat", "IVF16,Flat", "IVF16,SQ8")


@pytest.fixture(scope="module")
def indices(tmp_path_factory):
    """{(codec, shards, sharding): open shards} of one corpus."""
    made = {}
    for codec in CODECS:
        for count, sharding in CUTS:
            folder = tmp_path_factory.mktemp("index") / "i"
            manifest = write_index(folder, PASSAGES, VECTORS, codec=codec, shards=count, sharding=sharding)
            made[codec, count, sharding] = open_index(folder, manifest)
    return made


def ask(shards, vector, k, policy, *, languages=None, where=None, among=None, depth=None, **rest):
    """[(global id, score, ranked score, global ids of also)] of the hits, and whether they were cut."""
    strata = strata_of(policy, ShardQuery(depth or k, languages, where, among), LANGUAGES)
    totals = shards[0].totals
    queries = [stratum.query for stratum in strata]
    parts = [shard.search(np.repeat(vector[None], len(queries), axis=0), queries) for shard in shards]
    found = [
        merge([part[n] for part in parts], query.k, not is_flat(totals.codec), query.among, totals.candidates)
        for n, query in enumerate(queries)
    ]
    group_of = None
    if policy.group_by is not None:

        def group_of(hit):
            return shards[hit.shard].labels([hit.row], policy.group_by)[0][1]

    chosen = choose(found, strata, k, group_of=group_of, **rest)
    hits = [
        (one.global_id, one.hit.score, one.score, [other.global_id for other in also])
        for one, also in zip(chosen.hits, chosen.also, strict=True)
    ]
    return hits, chosen.cut


def by_hand(vector, k, policy, *, languages=None, year=None, min_score=None):
    """The same of every product, one passage after the other. `also` has the whole group."""
    scores = np.einsum("cd,d->c", VECTORS, vector)
    kept = [
        n
        for n, p in enumerate(PASSAGES)
        if (languages is None or p.language in languages)
        and (year is None or p.metadata["year"] == year)
        and (min_score is None or scores[n] >= min_score)
    ]
    rank = {n: float(scores[n]) + policy.bonuses.get(PASSAGES[n].language, 0.0) for n in kept}
    kept.sort(key=lambda n: (-rank[n], -scores[n], n))
    hits, used, shown = [], dict.fromkeys(LANGUAGES, 0), set()
    for n in kept:
        language = PASSAGES[n].language
        group = PASSAGES[n].metadata.get(policy.group_by) if policy.group_by else None
        quota = policy.quotas.get(language, policy.quota_of_others)
        if len(hits) == k or (quota is not None and used[language] == quota) or (group is not None and group in shown):
            continue
        used[language] += 1
        shown.add(group)
        also = [m for m in kept if m != n and group is not None and PASSAGES[m].metadata.get(policy.group_by) == group]
        hits.append((n, float(scores[n]), rank[n], also))
    return hits


bonuses = st.dictionaries(st.sampled_from(LANGUAGES), st.sampled_from([-0.2, 0.0, 0.05, 0.1, 2.0]))
quotas = st.dictionaries(st.sampled_from(LANGUAGES), st.integers(1, 8))
policies = st.builds(Policy, bonuses, quotas, st.none() | st.integers(1, 8), st.sampled_from([None, "group", "x"]))
narrowed = st.fixed_dictionaries(
    {
        "languages": st.none() | st.sets(st.sampled_from(LANGUAGES), min_size=1).map(lambda s: tuple(sorted(s))),
        "year": st.none() | st.sampled_from([2000, 2001]),
        "min_score": st.none() | st.sampled_from([0.3, 0.7]),
    }
)


def filter_of(year):
    return None if year is None else Filter(must=(OneOf("year", (str(year),)),))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=policies, asked=narrowed, k=st.integers(1, 40), row=st.integers(0, COUNT - 1))
def test_the_hits_are_those_of_plain_python(indices, policy, asked, k, row):
    """Every stratum is looked at whole, so groups are whole too, and nothing is cut."""
    wanted = by_hand(VECTORS[row], k, policy, **asked)
    said = {"languages": asked["languages"], "where": filter_of(asked["year"]), "min_score": asked["min_score"]}
    depth = None if policy.group_by is None else COUNT + 1
    for shards in (indices["Flat", *cut] for cut in CUTS):
        assert ask(shards, VECTORS[row], k, policy, depth=depth, **said) == (wanted, False)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=policies, asked=narrowed, k=st.integers(1, 40), row=st.integers(0, COUNT - 1), small=st.booleans())
def test_every_cut_gives_what_one_shard_gives(indices, monkeypatch, policy, asked, k, row, small):
    """Also where a codec loses something, and where the languages of a stratum go through the inverted lists."""
    monkeypatch.setattr(query_module, "EXACT_BELOW", 10 if small else 20_000)
    said = {"languages": asked["languages"], "where": filter_of(asked["year"]), "min_score": asked["min_score"]}
    depth = None if policy.group_by is None else 3 * k
    for codec in CODECS:
        whole = ask(indices[codec, *CUTS[0]], VECTORS[row], k, policy, depth=depth, **said)
        for cut in CUTS[1:]:
            assert ask(indices[codec, *cut], VECTORS[row], k, policy, depth=depth, **said) == whole, (codec, cut)
    if policy.group_by is None:
        assert not whole[1]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=policies, asked=narrowed, k=st.integers(1, 40), row=st.integers(0, COUNT - 1), depth=st.integers(1, 60))
def test_what_is_found_before_the_cut_is_right(indices, policy, asked, k, row, depth):
    """However few are considered: the hits are the first of the right ones, and only too few of them are `cut`."""
    wanted = by_hand(VECTORS[row], k, policy, **asked)
    said = {"languages": asked["languages"], "where": filter_of(asked["year"]), "min_score": asked["min_score"]}
    hits, cut = ask(indices["Flat", 4, "random"], VECTORS[row], k, policy, depth=depth, **said)
    if policy.group_by is None and depth < k:
        return  # a search never asks for fewer than it wants
    assert [hit[:3] for hit in hits] == [hit[:3] for hit in wanted[: len(hits)]]
    assert all(set(also) <= set(whole) for (*_, also), (*_, whole) in zip(hits, wanted, strict=False))
    assert cut or len(hits) == len(wanted)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=policies, row=st.integers(0, COUNT - 1), size=st.integers(1, 15))
def test_pages_of_any_cut_put_together_are_one_answer(indices, monkeypatch, policy, row, size):
    monkeypatch.setattr(query_module, "EXACT_BELOW", 10)
    depth = None if policy.group_by is None else 300
    among = 60 if policy.group_by is None else None
    for codec in CODECS:
        whole, _ = ask(indices[codec, 1, "language"], VECTORS[row], 45, policy, depth=depth, among=among)
        for k in range(size, 46, size):
            for cut in CUTS:
                hits, _ = ask(indices[codec, *cut], VECTORS[row], k, policy, depth=depth, among=among)
                assert hits == whole[:k]


def hits_of(*scores, first=0):
    return [Hit(0, first + n, first + n, score) for n, score in enumerate(scores)]


def test_by_hand():
    """German scores .9 .7, English .88 .8 .1; German has a bonus of .05 and English a quota of one."""
    strata = [Stratum(ShardQuery(3), 0.05, None), Stratum(ShardQuery(3), 0.0, 1)]
    found = [hits_of(0.9, 0.7), hits_of(0.88, 0.8, 0.1, first=10)]
    chosen = choose(found, strata, 4)
    assert [(one.global_id, round(one.score, 3)) for one in chosen.hits] == [(0, 0.95), (10, 0.88), (1, 0.75)]
    assert not chosen.cut
    # .75 of German stands behind .8 of English where the bonus is .05, and before it where it is .11.
    for bonus, order in ((0.05, [0, 10, 11]), (0.11, [0, 10, 1])):
        strata = [Stratum(ShardQuery(3), bonus, None), Stratum(ShardQuery(3), 0.0, None)]
        assert [one.global_id for one in choose(found, strata, 3).hits] == order


def test_equal_sums_go_by_score_and_equal_scores_by_id():
    strata = [Stratum(ShardQuery(3), 0.25, None), Stratum(ShardQuery(3), 0.0, None)]
    found = [hits_of(0.5, 0.5, first=7), hits_of(0.75, 0.75, first=20)]
    assert [one.global_id for one in choose(found, strata, 4).hits] == [20, 21, 7, 8]


def test_a_passage_that_was_not_looked_at_may_be_the_next_and_then_the_rest_is_cut():
    """Two strata of which two each were asked for; both of the first are one group."""
    strata = [Stratum(ShardQuery(2), 0.0, None), Stratum(ShardQuery(2), 0.0, None)]
    found = [hits_of(0.9, 0.8), hits_of(0.7, first=10)]
    chosen = choose(found, strata, 2, group_of=lambda hit: "one" if hit.global_id < 10 else None)
    # The next of the first stratum may score .79: .7 is not sure to be the second hit.
    assert ([one.global_id for one in chosen.hits], chosen.cut) == ([0], True)
    assert [[other.global_id for other in also] for also in chosen.also] == [[1]]
    sure = choose(found, strata, 2, group_of=lambda hit: "one" if hit.global_id < 10 else None, min_score=0.85)
    assert ([one.global_id for one in sure.hits], sure.cut) == ([0], False)


def test_strata_are_as_few_as_the_policy_allows():
    def named(policy, languages=None):
        return [
            (stratum.query.languages, stratum.bonus, stratum.quota)
            for stratum in strata_of(policy, ShardQuery(5, languages), LANGUAGES)
        ]

    assert named(Policy({"de": 0.1})) == [(("de",), 0.1, None), (("en", "es", "sw"), 0.0, None)]
    assert named(Policy(dict.fromkeys(LANGUAGES, 0.1))) == [(None, 0.1, None)]
    assert named(Policy({"de": 0.1}), ("en", "sw")) == [(("en", "sw"), 0.0, None)]
    assert named(Policy(quotas={"en": 2})) == [(("de", "es", "sw"), 0.0, None), (("en",), 0.0, 2)]
    each = [(("de",), 0.0, 1), (("en",), 0.0, 9), (("es",), 0.0, 1), (("sw",), 0.0, 1)]
    assert named(Policy(quotas={"en": 9}, quota_of_others=1)) == each
