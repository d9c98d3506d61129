"""Sources in the mix: weights as exact as those of kinds, batches of one source, and the same batches everywhere."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings, strategies as st
from test_feed import same
from training_store import groups, make_reader

from hybrid_ir.batches.batch import slice_sizes
from hybrid_ir.batches.by_source import rows_in_store
from hybrid_ir.batches.feed import in_process_feed
from hybrid_ir.batches.from_experiment import builder_for, plan_for, source_shares, uneven_epochs
from hybrid_ir.batches.ledger import make_ledger
from hybrid_ir.batches.plan import make_plan
from hybrid_ir.config.loading import load_experiment, parse_experiment
from hybrid_ir.data.inputs import Input
from hybrid_ir.data.prepare import prepare
from hybrid_ir.data.store import Partition, open_store
from hybrid_ir.training.checkpoint import Progress
from hybrid_ir.types import InputError

WIDE = ("ar", "de", "en", "es")
NEWS, FACTS = Partition("p0/news", WIDE, 1201, source="news"), Partition("p0/facts", WIDE, 333, source="facts")
TALKS = Partition("p1/talks", ("de", "en"), 257, source="talks")
EVERY = Partition("p2/talks", WIDE, 129, source="talks")
ALL_KINDS = {"monolingual": 0.3, "cross_lingual": 0.3, "multilingual": 0.4}
SIZE = 16


def plan_of(*partitions, sources=None, weights=ALL_KINDS, **more):
    by_kind: Any = None if sources is None else dict.fromkeys(weights, sources)
    return make_plan(partitions, weights=weights, seed=0, sources=by_kind, **{"batch_size": SIZE, **more})


def within(counts: Counter, weights, total: int, most: float) -> bool:
    return all(abs(counts[x] - total * w / sum(weights.values())) <= most + 1e-6 for x, w in weights.items())


weights_of_three = st.fixed_dictionaries({
    x: st.one_of(st.integers(1, 9), st.sampled_from([0.5, 0.25, 1.5])) for x in ("facts", "news", "talks")
})  # fmt: skip


@settings(deadline=None, max_examples=15)
@given(weights_of_three, st.sampled_from(["per_row", "per_batch"]), st.integers(0, 100_000))
def test_batches_of_one_source_have_their_shares_of_each_kind_to_within_one_batch(weights, cross_lingual, start):
    plan = plan_of(NEWS, FACTS, TALKS, EVERY, sources=weights, one_source=True, cross_lingual=cross_lingual)
    batches, of_kind = defaultdict(Counter), plan.kind_counts(start)
    before = plan.realised_sources(start)
    for kind, n in of_kind.items():  # any prefix, then every step of a window
        batches[kind].update({x: rows // SIZE for x, rows in before[kind].items()})
        assert batches[kind].total() == n
    for step in range(start, start + 40):
        batch = plan.batch(step)
        assert len(set(batch.sources)) == 1
        batches[batch.kind][batch.sources[0]] += 1
        of_kind[batch.kind] += 1
        assert within(batches[batch.kind], weights, of_kind[batch.kind], 1)
        assert {plan.partitions[p].source for p in batch.partition_B} == set(batch.sources)
    after = plan.realised_sources(start + 40)
    assert after == {kind: {x: batches[kind][x] * SIZE for x in weights} for kind in after}


@settings(deadline=None, max_examples=15)
@given(weights_of_three, st.sampled_from(["per_row", "per_batch"]), st.integers(0, 100_000))
def test_sources_that_are_mixed_have_their_shares_of_any_window_to_within_one_batch(weights, cross_lingual, start):
    plan = plan_of(NEWS, FACTS, EVERY, sources=weights, cross_lingual=cross_lingual)
    rows, cells, turns = Counter(), defaultdict(Counter), Counter()
    for step in range(start, start + 40):
        batch = plan.batch(step)
        assert within(Counter(batch.sources), weights, SIZE, 2)
        rows.update(batch.sources)
        assert within(rows, weights, (step + 1 - start) * SIZE, SIZE)
        assert [plan.partitions[p].source for p in batch.partition_B] == list(batch.sources)
        for pair, source in zip(batch.pairs, batch.sources, strict=True):
            cells[batch.kind, pair][source] += 1
            turns[batch.kind, pair] += 1
    before, after = (plan.realised_sources(step) for step in (start, start + 40))
    assert rows == {x: sum(after[kind][x] - before[kind][x] for kind in after) for x in weights}
    for cell, n in turns.items():
        # A pair's rows too: no source is left with some of the languages only.
        assert within(cells[cell], weights, n, 4)


@pytest.mark.parametrize("one_source", [False, True])
def test_a_group_comes_once_an_epoch_and_a_batch_depends_on_its_step_alone(one_source):
    more = {"sources": {"facts": 5, "news": 1, "talks": 1}, "one_source": one_source}
    plan, fresh, rows = plan_of(NEWS, FACTS, EVERY, **more), plan_of(NEWS, FACTS, EVERY, **more), defaultdict(list)
    for step in range(200):
        batch = plan.batch(step)
        taken = list(zip(batch.partition_B.tolist(), batch.row_B.tolist(), strict=True))
        assert len(set(taken)) == SIZE
        for partition, row in taken:
            rows[plan.partitions[partition]].append(row)
    assert len(rows[FACTS]) > 3 * FACTS.rows
    for partition, all_rows in rows.items():
        for start in range(0, len(all_rows), partition.rows):
            epoch = all_rows[start : start + partition.rows]
            assert len(set(epoch)) == len(epoch)
    for step in (1_000_003, 150, 3):
        a, b = plan.batch(step), fresh.batch(step)
        assert (a.kind, a.pairs, a.sources, a.row_B.tolist()) == (b.kind, b.pairs, b.sources, b.row_B.tolist())


def test_each_kind_may_have_weights_of_its_own():
    by_kind: Any = {"monolingual": {"news": 3, "facts": 1}, "cross_lingual": {"facts": 1}}
    plan = make_plan((NEWS, FACTS), weights={"monolingual": 0.5, "cross_lingual": 0.5}, batch_size=SIZE, seed=0,
                     sources=by_kind)  # fmt: skip
    assert plan.asked_sources() == {"monolingual": {"facts": 0.125, "news": 0.375},
                                    "cross_lingual": {"facts": pytest.approx(0.5)}}  # fmt: skip
    for step in range(20):
        batch = plan.batch(step)
        assert Counter(batch.sources) == ({"facts": 16} if batch.kind == "cross_lingual" else {"facts": 4, "news": 12})


def test_batches_of_one_source_without_weights_are_as_many_as_its_groups():
    plan = plan_of(NEWS, FACTS, one_source=True)
    batches = Counter(plan.batch(step).sources[0] for step in range(767))
    assert abs(batches["news"] - 767 * 1201 / 1534) < 3
    epochs = plan.epochs(767)
    assert epochs["p0/news"] == pytest.approx(epochs["p0/facts"], rel=0.02)


def test_a_source_that_is_gone_through_far_more_often_is_named():
    plan = plan_of(NEWS, FACTS, sources={"news": 1, "facts": 1})
    said = uneven_epochs(plan, 200)
    assert said is not None
    assert said.startswith(
        "the 333 groups of facts in ar+de+en+es are gone through 4.8 times, the 1,201 groups of news"
    )
    assert said.endswith("and batch.sources weighs sources")


def test_of_one_source_a_batch_has_the_languages_that_it_has():
    plan = plan_of(NEWS, TALKS, sources={"news": 1, "talks": 1}, one_source=True)
    pairs = defaultdict(set)
    for step in range(60):
        batch = plan.batch(step)
        pairs[batch.sources[0]].update(x for pair in batch.pairs for x in pair)
    assert pairs == {"news": set(WIDE), "talks": {"de", "en"}}


@pytest.mark.parametrize(
    ("partitions", "sources", "more", "message"),
    [
        (
            [NEWS, TALKS],
            {"news": 1, "talks": 1},
            {},
            r"'talks' has no groups for monolingual batches: ar es, and 'news' has; sources that are mixed in a batch "
            r"need the same languages. Set batch.languages=\[de, en\], which all of them have, or batch.one",
        ),
        (
            [NEWS, Partition("p3/lone", ("en",), 300, source="lone")],
            {"lone": 1, "news": 2},
            {"languages": ("en", "de"), "weights": {"cross_lingual": 1.0}},
            r"'lone' cannot serve cross_lingual batches of 16: en-de de-en; its groups come in en. Leave it out, give",
        ),
        (
            [NEWS, TALKS],
            {"news": 1, "talks": 1},
            {"languages": ("en", "ar"), "one_source": True, "weights": {"monolingual": 1.0}},
            "'talks' cannot serve monolingual batches of 16: ar; its groups come in de",
        ),
        (
            [NEWS, Partition("p0/few", WIDE, 15, source="few")],
            {"few": 1, "news": 1},
            {},
            r"batch.size=16 needs at least 20 groups of 'few' that share their languages, found 15 in ar\+de\+en\+es; "
            "lower batch.size, its weight in batch.sources, or prepare more",
        ),
    ],
)  # fmt: skip
def test_a_source_that_cannot_have_its_weight_is_refused(partitions, sources, more, message):
    with pytest.raises(InputError, match=message):
        plan_of(*partitions, sources=sources, **more)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{news: 0}", "batch.sources: weights must be above 0, got 0 for 'news'; a source that is left out is not"),
        ("{news: -1, facts: 2}", "weights must be above 0, got -1 for 'news'"),
        ("{news: .nan}", "weights must be above 0, got nan"),
        ("{news: true}", "weights must be above 0, got True"),
        ("{}", "batch.sources: must map names of sources to weights, got {}"),
        ("[news]", r"must map names of sources to weights, got \['news'\]"),
        ("{monolingual: {news: 1}}", "sources has weights by kind, and none for cross_lingual, which the mix has"),
        ("{news: {facts: 1}}", "has weights by kind, and 'news' is no kind: there are monolingual, cross_lingual"),
        ("{monolingual: {news: 0}}", "weights must be above 0, got 0 for 'news'"),
        ("{monolingual: 1, cross_lingual: {news: 1}}", "must map names of sources to weights, got 1"),
    ],
)
def test_weights_that_mean_nothing_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        load_experiment(None, [f"batch.sources={given}"])


# A store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """2,500 groups of houses and 100 of flats, in three blocks of one partition; all of castles are held out."""
    folder = tmp_path_factory.mktemp("sources") / "store"
    inputs = [
        Input("houses", lambda: iter(groups(2500)), use="train"),
        Input("flats", lambda: iter(groups(100, first=2500)), use="train"),
        Input("castles", lambda: iter(groups(20, first=2600)), use="test"),
    ]
    prepare(inputs, str(folder), seed=0, validation_fraction=0, test_fraction=0, settings={})
    return open_store(str(folder))


@pytest.fixture(scope="module")
def reader(store, tmp_path_factory):
    return make_reader(store, tmp_path_factory.mktemp("reader") / "model")


def builder_of(store, reader, *overrides):
    experiment = load_experiment(None, ["batch.size=10", *overrides])
    return builder_for(experiment, store, plan_for(store, experiment), reader)


@pytest.mark.parametrize("one_source", ["true", "false"])
def test_rows_are_of_the_source_that_was_planned(store, reader, one_source):
    builder = builder_of(store, reader, "batch.sources={flats: 1, houses: 1}", f"batch.one_source={one_source}")
    for step in range(12):
        planned = builder.plan.batch(step)
        batch = builder.build(step)
        partition_B, row_B = rows_in_store(planned, builder.plan.partitions, store)
        assert set(partition_B.tolist()) == {0}
        ids = store.take(0, row_B, "group_id")
        assert len(set(ids)) == 10
        assert tuple(name.partition(":")[0] for name in ids) == batch.sources == planned.sources


def test_every_group_of_a_source_comes_once_an_epoch(store, reader):
    builder = builder_of(store, reader, "batch.sources={flats: 1}")
    ids = [builder.build(step).passage_ids_BLS[:, 0, 0].tolist() for step in range(10)]
    assert len({x for each in ids for x in each}) == 100


def test_any_number_of_workers_and_any_first_step_give_the_same_batches(store, reader):
    words = "batch.sources={flats: 1, houses: 2}", "batch.mix={monolingual: 1, cross_lingual: 1, multilingual: 1}"
    straight = [builder_of(store, reader, *words).build(step) for step in range(9)]
    resumed = in_process_feed(builder_of(store, reader, *words, "train.workers=4"), 4, 9)
    for a, b in zip(straight[4:], resumed, strict=True):
        assert same(a, b)
        assert a.sources == b.sources
        for workers in (1, 2, 4):
            sizes = slice_sizes(10, workers)
            rows = [row for rank in range(workers) for row in range(10)[b.slice(rank, workers)]]
            assert rows == list(range(10))
            assert len(sizes) == workers


def test_one_source_in_the_store_gives_the_batches_that_no_setting_gives(tmp_path, reader):
    prepare([Input("houses", lambda: iter(groups(60)))], str(tmp_path / "s"), seed=0, validation_fraction=0,
            test_fraction=0, settings={})  # fmt: skip
    only = open_store(str(tmp_path / "s"))
    plain = builder_of(only, reader)
    for words in (["batch.one_source=true"], ["batch.sources={houses: 3}"]):
        builder = builder_of(only, reader, *words)
        assert all(same(builder.build(step), plain.build(step)) for step in range(8))


def test_the_ledger_and_the_table_have_shares_by_source(store, reader):
    builder = builder_of(store, reader, "batch.sources={flats: 1, houses: 3}", "batch.size=16")
    progress = Progress()
    for step in range(6):
        progress.count(builder.build(step))
    found = make_ledger(builder.plan, vars(progress))["sources"]
    assert found == {
        kind: {
            "flats": {"asked": pytest.approx(0.125), "realised": 0.125, "rows": 12},
            "houses": {"asked": pytest.approx(0.375), "realised": 0.375, "rows": 36},
        }
        for kind in ("monolingual", "cross_lingual")
    }
    assert source_shares(builder.plan, 50) == [
        ("flats", pytest.approx(0.25), pytest.approx(2.0)),
        ("houses", pytest.approx(0.75), pytest.approx(600 / 2500)),
    ]
    assert "sources" not in make_ledger(builder_of(store, reader).plan, vars(Progress()))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("{huts: 1}", "batch.sources names 'huts', which the store lacks; it has houses, flats, castles"),
        ("{castles: 1, flats: 1}", "names 'castles', of which .* has no group to train on; leave it out"),
    ],
)
def test_a_name_that_the_store_cannot_serve_is_refused(store, sources, message):
    with pytest.raises(InputError, match=message):
        plan_for(store, load_experiment(None, ["batch.size=10", f"batch.sources={sources}"]))


def test_a_row_of_no_source_is_said_to_be_damage(store):
    broken = open_store(store.path)
    broken.manifest = {**broken.manifest, "sources": {"houses": {}, "castles": {}}}
    with pytest.raises(InputError, match=r"is damaged: group 'flats:\d+' is of none of its sources, which are houses"):
        plan_for(broken, load_experiment(None, ["batch.size=10", "batch.one_source=true"]))


def test_the_example_of_the_page_means_what_it_says():
    page = (Path(__file__).parents[1] / "docs" / "train.md").read_text(encoding="utf-8")
    (block,) = [each for each in re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S) if "sources: {" in each]
    experiment = parse_experiment(yaml.safe_load(block), "the page")
    plan = make_plan(
        [Partition("p0/lareqa", WIDE, 842, source="lareqa"), Partition("p0/ntrex", WIDE, 1997, source="ntrex")],
        weights=experiment.batch.weights,
        batch_size=experiment.batch.size,
        seed=experiment.seed,
        sources=experiment.batch.source_weights,
    )
    for step in range(30):
        counts = Counter(plan.batch(step).sources)
        assert abs(counts["lareqa"] - 64 * 2 / 3) <= 2
        rows = plan.realised_sources(step)
        assert abs(sum(each["ntrex"] for each in rows.values()) - 64 * step / 3) <= 64
    assert [(name, round(share, 4)) for name, share, _ in source_shares(plan, 60)] == [
        ("lareqa", 0.6667),
        ("ntrex", 0.3333),
    ]
