"""The plan: exact mixes, every group at most once an epoch, and a batch that depends on its step alone."""

from __future__ import annotations

import tracemalloc
from collections import Counter, defaultdict
from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from hybrid_ir.batches.from_experiment import uneven_epochs
from hybrid_ir.batches.permutation import epoch_order, first_half, permute, round_keys
from hybrid_ir.batches.plan import make_plan
from hybrid_ir.batches.schedule import Lines, Schedule, whole_parts
from hybrid_ir.config.experiment import Batch
from hybrid_ir.data.store import ROWS_PER_BLOCK, Partition
from hybrid_ir.types import InputError

WIDE = Partition("wide", ("ar", "de", "en", "es"), 1201)
NARROW = Partition("narrow", ("de", "en"), 333)
LONE = Partition("lone", ("ar",), 257)
ALL_KINDS = {"monolingual": 0.3, "cross_lingual": 0.3, "multilingual": 0.4}
HYBRID = {"monolingual": 0.5, "cross_lingual": 0.5}


def plan_of(*partitions, weights=HYBRID, batch_size=16, seed=0, **more):
    return make_plan(partitions, weights=weights, batch_size=batch_size, seed=seed, **more)


def same(a, b):
    return (
        (a.step, a.kind, a.pairs) == (b.step, b.kind, b.pairs)
        and a.partition_B.tolist() == b.partition_B.tolist()
        and a.row_B.tolist() == b.row_B.tolist()
    )


MIXES = {
    "paper": ([WIDE], {}),
    "one pair a batch": ([WIDE], {"cross_lingual": "per_batch"}),
    "three kinds": ([WIDE], {"weights": ALL_KINDS}),
    "partitions": ([WIDE, NARROW, LONE], {"weights": ALL_KINDS}),
    "partitions, one pair a batch": ([WIDE, NARROW], {"weights": ALL_KINDS, "cross_lingual": "per_batch"}),
    "by size": ([WIDE, NARROW, LONE], {"weights": ALL_KINDS, "language_temperature": 1.0}),
    "by size, softened": ([WIDE, NARROW], {"language_temperature": 3.0, "cross_lingual": "per_batch"}),
    "some languages": ([WIDE, NARROW], {"weights": ALL_KINDS, "languages": ("en", "de")}),
    "alpha of 0.37": ([WIDE, NARROW], {"weights": Batch(alpha=0.37).weights}),
}
mixes = pytest.mark.parametrize(("partitions", "more"), MIXES.values(), ids=MIXES.keys())


# The schedule


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any))
def test_every_item_is_within_one_turn_of_its_share_at_every_turn(weights):
    schedule = Schedule(weights)
    given_out = [0] * len(weights)
    for turn in range(2 * schedule.period):
        assert schedule.counts(turn).tolist() == given_out
        given_out[int(schedule.item(np.asarray(turn)))] += 1
        for n, weight in zip(given_out, weights, strict=True):
            assert abs(n - weight * (turn + 1) / sum(weights)) < 1
    assert [n * sum(weights) for n in given_out] == [2 * schedule.period * w for w in weights]


def test_a_schedule_of_equal_weights_takes_turns():
    assert Schedule([5, 5, 5]).item(np.arange(7)).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_lines_deal_to_the_things_they_share():
    # Lines 0 and 2 deal 7 7 9 in the order 7 9 7; line 1 deals to 9 alone. Things are numbered 0..9.
    lines = Lines([Schedule([2, 1]), Schedule([1])], [np.array([7, 9]), np.array([9])], np.array([0, 1, 0]), 10)
    assert lines.item(np.array([0, 0, 0, 0, 1, 2]), np.array([0, 1, 2, 4, 5, 1])).tolist() == [7, 9, 7, 9, 9, 9]
    counts = lines.counts(np.array([1, 4, 5]))  # 7 | 9 9 9 9 | 7 9 7 7 9
    assert (counts[7], counts[9], counts.sum()) == (1 + 0 + 3, 0 + 4 + 2, 10)


@settings(deadline=None)
@given(st.lists(st.floats(1e-12, 1e3), min_size=1, max_size=12), st.integers(20, 2000))
@example([6e-8, 1e-12], 1000)
def test_whole_parts_are_in_proportion_and_leave_nobody_out(weights, most):
    parts = whole_parts(weights, most)
    assert min(parts) >= 1
    for part, weight in zip(parts, weights, strict=True):
        # Rounding moves a share by less than a part; raising others to one part dilutes it by less than n parts.
        assert abs(part / sum(parts) - weight / sum(weights)) <= (len(parts) + 1) / most


def test_decimal_weights_become_their_exact_ratio():
    assert whole_parts([0.3, 0.3, 0.4], 10_000) == [3, 3, 4]
    assert whole_parts([0.12345, 0.87655], 100_000) == [2469, 17531]
    assert whole_parts([1 / 3, 2 / 3], 10_000) == [1, 2]


# The mix


@mixes
def test_the_realised_mix_is_within_one_batch_of_the_ask_after_any_number_of_steps(partitions, more):
    plan = plan_of(*partitions, **more)
    weights = more.get("weights", HYBRID)
    batches, rows = Counter(), defaultdict(Counter)
    served = {kind: list(pairs) for kind, pairs in plan.asked().items()}
    for step in range(250):
        batch = plan.batch(step)
        batches[batch.kind] += 1
        rows[batch.kind].update(batch.pairs)
        for kind, weight in weights.items():
            assert abs(batches[kind] - weight / sum(weights.values()) * (step + 1)) < 1
            if "language_temperature" not in more:
                for pair in served[kind]:
                    ask = batches[kind] * plan.batch_size / len(served[kind])
                    assert abs(rows[kind][pair] - ask) <= plan.batch_size
        assert plan.kind_counts(step + 1) == {kind: batches[kind] for kind in weights}
        assert plan.realised(step + 1) == {kind: {p: rows[kind][p] for p in served[kind]} for kind in weights}


@pytest.mark.parametrize("cross_lingual", ["per_row", "per_batch"])
def test_every_pair_is_within_one_batch_of_its_share_of_all_rows(cross_lingual):
    plan = plan_of(WIDE, weights=ALL_KINDS, cross_lingual=cross_lingual)
    for step in range(1, 500):
        realised = plan.realised(step)
        for kind, pairs in plan.asked().items():
            for pair, share in pairs.items():
                assert abs(realised[kind][pair] - share * step * plan.batch_size) <= plan.batch_size


def test_the_ask_sums_to_one_and_names_every_pair_that_is_served():
    asked = plan_of(WIDE, weights=ALL_KINDS).asked()
    assert set(asked["cross_lingual"]) == set(permutations(WIDE.languages, 2))
    assert set(asked["monolingual"]) == set(asked["multilingual"]) == {(x, x) for x in WIDE.languages}
    assert asked["cross_lingual"]["ar", "en"] == pytest.approx(0.3 / 12)
    assert sum(share for pairs in asked.values() for share in pairs.values()) == pytest.approx(1)


def test_languages_weigh_what_the_temperature_says():
    # Arabic is in 100 groups and English in 400: 1 to 4 by size, 1 to 2 at temperature 2.
    partitions = [Partition("a", ("ar",), 100), Partition("b", ("en",), 400)]
    for temperature, share in ((1.0, 1 / 5), (2.0, 1 / 3), (None, 1 / 2)):
        plan = plan_of(*partitions, weights={"monolingual": 1.0}, language_temperature=temperature)
        assert plan.asked()["monolingual"]["ar", "ar"] == pytest.approx(share, abs=1e-4)


def test_a_pair_takes_from_each_partition_by_its_size():
    plan = plan_of(Partition("big", ("de", "en"), 900), Partition("small", ("de", "en"), 300))
    rows = Counter(int(p) for step in range(300) for p in plan.batch(step).partition_B)
    assert rows[0] / rows[1] == pytest.approx(3, rel=0.01)
    epochs = plan.epochs(300)
    assert epochs == {"big": rows[0] / 900, "small": rows[1] / 300}


@pytest.mark.parametrize("small", [4096, 200_000])
def test_a_small_partition_beside_a_huge_one_has_as_many_epochs(small):
    """By shares of 1/1024 it had 24 epochs while the huge one had its first."""
    plan = plan_of(Partition("huge", ("en",), 100_000_000), Partition("small", ("en",), small),
                   weights={"monolingual": 1.0}, batch_size=64)  # fmt: skip
    epochs = plan.epochs(100_000_000 // 64)
    assert epochs["huge"] == pytest.approx(1, abs=0.01)
    assert epochs["small"] == pytest.approx(1, abs=0.3)
    assert uneven_epochs(plan, 100_000_000 // 64) is None


def test_a_training_that_repeats_some_groups_far_more_often_says_so():
    plan = plan_of(Partition("p0", ("en",), 64_000), Partition("p1", ("th",), 640), weights={"monolingual": 1.0})
    assert uneven_epochs(plan, 40) is None
    said = uneven_epochs(plan, 1000)
    assert said is not None
    assert said.startswith("the 640 groups in th are gone through 12.5 times, the 64,000 groups in en 0.1 times")
    assert "batch.language_temperature=1" in said


def test_each_kind_pairs_languages_as_its_name_says():
    plan = plan_of(WIDE, NARROW, weights=ALL_KINDS)
    seen = set()
    for step in range(100):
        batch = plan.batch(step)
        seen.add(batch.kind)
        if batch.kind == "monolingual":
            assert len(set(batch.pairs)) == 1
        if batch.kind == "cross_lingual":
            assert all(query != passage for query, passage in batch.pairs)
            assert len(set(batch.pairs)) > 1
        else:
            assert all(query == passage for query, passage in batch.pairs)
        if batch.kind == "multilingual":
            assert len(set(batch.pairs)) == 4
        for (query, passage), partition in zip(batch.pairs, batch.partition_B, strict=True):
            assert {query, passage} <= set(plan.partitions[partition].languages)
    assert seen == set(ALL_KINDS)


def test_per_batch_cross_lingual_has_one_ordered_pair_a_batch():
    plan = plan_of(WIDE, weights={"cross_lingual": 1.0}, cross_lingual="per_batch")
    pairs = [set(plan.batch(step).pairs) for step in range(12)]
    assert all(len(p) == 1 for p in pairs)
    assert set.union(*pairs) == set(permutations(WIDE.languages, 2))


def test_a_language_named_twice_counts_once():
    plan = plan_of(WIDE, weights={"cross_lingual": 1.0}, languages=("en", "de", "en"))
    assert set(plan.asked()["cross_lingual"]) == {("en", "de"), ("de", "en")}


# Epochs


@mixes
def test_a_group_comes_at_most_once_an_epoch_and_never_twice_in_a_batch(partitions, more):
    plan = plan_of(*partitions, **more)
    rows = defaultdict(list)
    for step in range(400):
        batch = plan.batch(step)
        groups = list(zip(batch.partition_B.tolist(), batch.row_B.tolist(), strict=True))
        assert len(set(groups)) == plan.batch_size
        for partition, row in groups:
            rows[partition].append(row)
    assert len(rows[0]) > 2 * WIDE.rows
    for partition, taken in rows.items():
        n = plan.partitions[partition].rows
        for start in range(0, len(taken), n):
            epoch = taken[start : start + n]
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(n))


@pytest.mark.parametrize("batch_size", [2, 3, 16, 31])
@pytest.mark.parametrize("spare", [0, 1, 5])
def test_a_store_as_small_as_allowed_never_repeats_a_group_in_a_batch(batch_size, spare):
    plan = plan_of(Partition("p", ("de", "en"), 2 * batch_size + spare), batch_size=batch_size)
    for step in range(60):
        assert len(set(plan.batch(step).row_B.tolist())) == batch_size


@pytest.mark.parametrize("rows", [8192, 8 * 1024 + 2047, 10_239])
def test_a_batch_of_half_the_store_never_repeats_a_group(rows):
    plan = plan_of(Partition("p", ("de", "en"), rows), batch_size=4096)
    for step in range(8):
        assert len(set(plan.batch(step).row_B.tolist())) == 4096


def test_a_batch_larger_than_the_first_half_is_refused_with_what_would_be_enough():
    # Of 10,239 rows whole blocks make a first half of 4 x 1024.
    with pytest.raises(InputError, match=r"batch.size=5000 needs at least 10240 groups .* found 10239 in de\+en"):
        plan_of(Partition("p", ("de", "en"), 10_239), batch_size=5000)
    assert len(set(plan_of(Partition("p", ("de", "en"), 10_240), batch_size=5000).batch(2).row_B.tolist())) == 5000


def test_a_partition_that_is_too_small_is_reported_and_never_used():
    small = Partition("small", ("de", "en"), 9)
    plan = plan_of(WIDE, small)
    assert plan.unused == (small,)
    assert plan.partitions == (WIDE,)
    assert "small" not in plan.epochs(100)


def test_a_partition_that_serves_nothing_is_reported_and_never_used():
    plan = plan_of(LONE, WIDE, weights={"cross_lingual": 1.0})
    assert plan.unused == (LONE,)
    assert plan.epochs(100)["lone"] == 0
    assert all((plan.batch(step).partition_B == 1).all() for step in range(20))


# A pure function


@mixes
def test_a_batch_depends_on_its_step_alone(partitions, more):
    plan, fresh = plan_of(*partitions, **more), plan_of(*partitions, **more)
    straight = [plan.batch(step) for step in range(50)]
    assert same(fresh.batch(1_000_003), plan.batch(1_000_003))
    for step in reversed(range(50)):
        assert same(fresh.batch(step), straight[step])


def test_another_seed_takes_other_groups_in_the_same_languages():
    a, b = plan_of(WIDE, seed=0).batch(0), plan_of(WIDE, seed=1).batch(0)
    assert a.pairs == b.pairs
    assert a.row_B.tolist() != b.row_B.tolist()


def test_a_batch_of_a_hundred_million_groups_is_cheap():
    plan = plan_of(Partition("p", ("de", "en"), 100_000_000), batch_size=1024)
    tracemalloc.start()
    for step in (0, 97_656, 3_000_000):  # 97,656: the first epoch ends in it
        assert len(set(plan.batch(step).row_B.tolist())) == 1024
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def test_a_hundred_and_twenty_eight_languages_are_cheap():
    tracemalloc.start()
    plan = plan_of(Partition("p", tuple(f"x{n:03}" for n in range(128)), 10_000), batch_size=64)
    assert len({p for _, p in plan.batch(1).pairs}) == 64
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(plan.asked()["cross_lingual"]) == 128 * 127
    assert peak < 50e6


# Permutations


@settings(deadline=None)
@given(st.integers(1, 3000), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5))
def test_permute_is_a_bijection(n, key):
    assert sorted(permute(np.arange(n), n, round_keys(tuple(key))).tolist()) == list(range(n))


@settings(deadline=None)
@given(st.integers(1, 2**40), st.data())
def test_permute_stays_inside_and_keeps_values_apart(n, data):
    values = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=50, unique=True))
    out = permute(np.asarray(values), n, round_keys((0, 1))).tolist()
    assert len(set(out)) == len(values)
    assert all(0 <= x < n for x in out)


AROUND_BLOCKS = [k * ROWS_PER_BLOCK + d for k in (1, 2, 7, 8, 9, 16) for d in (-1, 0, 1)]


@pytest.mark.parametrize("n", [1, 2, 3, 5, *AROUND_BLOCKS])
def test_epoch_order_visits_every_row_once_and_the_first_half_first(n):
    order = epoch_order(np.arange(n), n, (0, 0, 0)).tolist()
    assert sorted(order) == list(range(n))
    assert sorted(order[: first_half(n)]) == list(range(first_half(n)))


def test_epoch_order_answers_any_positions_in_any_order():
    n = 9 * ROWS_PER_BLOCK + 3
    order = epoch_order(np.arange(n), n, (1, 2, 3))
    some = np.array([n - 1, 0, 5000, 17])
    assert epoch_order(some, n, (1, 2, 3)).tolist() == order[some].tolist()


def test_epochs_seeds_and_partitions_have_orders_of_their_own():
    n = 2000
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    orders = [epoch_order(np.arange(n), n, key) for key in keys]
    for i, a in enumerate(orders):
        # Two random orders of a half agree in about one place.
        assert all((a == b).sum() < 20 for b in orders[:i])


def test_a_shuffled_block_stays_together():
    n = 16 * ROWS_PER_BLOCK
    order = epoch_order(np.arange(n), n, (0, 0, 0)).reshape(16, ROWS_PER_BLOCK)
    assert all(len({row // ROWS_PER_BLOCK for row in block}) == 1 for block in order.tolist())


# What the data cannot serve


@pytest.mark.parametrize(
    ("partitions", "more", "message"),
    [
        (
            [WIDE],
            {"languages": ("en", "sw")},
            "batch.languages names 'sw', which the store lacks; it has ar, de, en, es",
        ),
        (
            [Partition("a", ("de", "en"), 100), Partition("b", ("en", "es"), 100)],
            {"languages": ("de", "en", "es")},
            r"cannot serve cross_lingual batches of 16: .*(es-de|de-es).*; its groups come in de\+en, en\+es",
        ),
        (
            [Partition("a", ("de",), 100), Partition("b", ("en",), 100)],
            {},
            r"cannot serve cross_lingual batches of 16: de-en en-de; its groups come in de, en\. Set batch.mix",
        ),
        (
            [Partition("a", ("de", "en"), 31)],
            {},
            r"batch.size=16 needs at least 32 groups that share their languages, found 31 in de\+en; lower batch.size",
        ),
        ([], {}, "cannot serve monolingual batches of 16; its groups come in no usable languages"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start(partitions, more, message):
    with pytest.raises(InputError, match=message):
        plan_of(*partitions, **more)


def test_a_language_that_is_only_in_a_small_partition_is_refused_when_asked_for():
    small = Partition("small", ("fr",), 31)
    with pytest.raises(InputError, match="cannot serve monolingual batches of 16: fr"):
        plan_of(WIDE, small, weights={"monolingual": 1.0}, languages=("en", "fr"))
    assert plan_of(WIDE, small, weights={"monolingual": 1.0}).unused == (small,)
