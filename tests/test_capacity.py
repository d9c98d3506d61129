"""Capacity: the figures of a size, worked out by hand; and the plan that they assume, at 100 million groups."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from hybrid_ir.batches.plan import make_plan
from hybrid_ir.cli import app as cli
from hybrid_ir.cluster.capacity import SIZES, Constants, IndexPlan, parse_request, plan_index, plan_training
from hybrid_ir.data.store import Partition
from hybrid_ir.index.writing import cut_shards
from hybrid_ir.types import InputError

MINI = "mini"  # 4 layers of 256 and 1024: 4 * (4 * 256 * 256 + 2 * 256 * 1024) = 3,145,728 weights
LANGUAGES = (
    "ar", "bn", "de", "en", "es", "fa", "fi", "fr", "hi", "id", "ja", "ko", "ru", "sw", "te", "th", "yo", "zh",
)  # fmt: skip


def test_bytes_are_those_of_the_measured_index():
    """benchmarks/index_size.py: a million of 384 dimensions in 2 shards, 405 bytes a vector, 1,292 a passage. Here
    in one shard: 384 + 8 + 4 * 384 * 4096 / 1e6 = 398.3 of codes, 768 of float16, 8 of id, 112 of text."""
    plan = plan_index(1e6, 384, MINI, replace(Constants(), text_bytes=88, record_bytes=24))
    assert (plan.codec, plan.shards) == ("IVF4096,SQ8", 1)
    assert plan.bytes_a_vector == pytest.approx(398.29, abs=0.01)
    assert plan.disk_gb == pytest.approx((398.29 + 768 + 8 + 112) * 1e6 / 1e9, rel=1e-4)
    # Beside it the fragments: float32 vectors, text and two bytes of language.
    assert plan.build_disk_gb - plan.disk_gb == pytest.approx((4 * 384 + 112 + 2) * 1e6 / 1e9)


def test_hours_are_those_of_the_measured_build():
    """A million of 384 dimensions in ten languages on 2 cores: 102 s of codec, 52 of shards, 11 of gate."""
    plan = plan_index(1e6, 384, MINI, replace(Constants(), node_cores=2, languages=10))
    assert plan.hours["train codec"] * 3600 == pytest.approx(102, rel=0.02)
    assert plan.hours["write shards"] * 3600 == pytest.approx(52, rel=0.02)
    assert plan.hours["recall gate"] * 3600 == pytest.approx(11)
    assert plan.hours["ingest"] * 3600 == pytest.approx(1e6 / 38_000)


def test_passages_are_encoded_by_all_gpus():
    """1e6 passages of 100 tokens, 2 operations a weight: 6.29e14. Two GPUs of 1e12 need 314.6 s."""
    plan = plan_index(1e6, 256, MINI, replace(Constants(), passage_tokens=100, gpus=2, gpu_flops=1e12))
    assert plan.hours["encode"] * 3600 == pytest.approx(314.57, abs=0.01)


def test_a_small_index_is_flat():
    """50 thousand vectors of 100 floats: 400 bytes each, no float16 beside them; 1.4e-7 s of a core a row of 384."""
    plan = plan_index(50_000, 100, MINI, replace(Constants(), text_bytes=90, record_bytes=2, node_cores=4))
    assert (plan.codec, plan.bytes_a_vector, plan.disk_gb) == ("Flat", 400, 50_000 * 500 / 1e9)
    assert plan.searches_per_s == pytest.approx(4 / (1.4e-7 * 50_000 * 100 / 384))


def test_shards_are_packed_into_nodes_whole():
    """4 million passages are 4 shards. A node that holds two and a half of them holds two: 2 nodes, and 4 for two
    replicas.
    """
    constants = replace(Constants(), replica_mb=100, usable_memory=1, vocabulary=1)
    shard_gb = plan_index(4e6, 256, MINI, constants).disk_gb / 4 + 0.1
    tight = replace(constants, node_memory_gb=2.5 * shard_gb)
    assert plan_index(4e6, 256, MINI, tight).nodes == 2
    assert plan_index(4e6, 256, MINI, replace(tight, replicas=2)).nodes == 4
    assert plan_index(4e6, 256, MINI, constants).nodes == 1
    assert plan_index(4e6, 256, MINI, replace(constants, replicas=3)).nodes == 3
    with pytest.raises(InputError, match="raise node_memory_gb"):
        plan_index(4e6, 256, MINI, replace(constants, node_memory_gb=0.9 * shard_gb))


def test_two_nodes_search_twice_as_much_as_one():
    """2 shards at 1 ms of a core: one node of 10 cores does 5,000 a second; with a shard each, two nodes do 10,000."""
    constants = replace(Constants(), query_core_s=1e-3, node_cores=10, usable_memory=1, vocabulary=1)
    one = plan_index(2e6, 64, MINI, constants)
    assert (one.nodes, one.searches_per_s) == (1, pytest.approx(5000, rel=0.01))
    two = plan_index(2e6, 64, MINI, replace(constants, node_memory_gb=1.5 * one.memory_gb / 2))
    assert (two.nodes, two.searches_per_s) == (2, pytest.approx(10_000, rel=0.01))


def test_a_training_is_that_of_the_measured_one():
    """60.4 pairs/s of 96 tokens with mini on 2 cores are 6 * 3,145,728 * 96 * 60.4 = 109.4e9 FLOP/s."""
    cores = replace(Constants(), gpus=1, gpus_per_node=1, gpu_flops=109.4e9, pair_tokens=96)
    plan = plan_training(1e6, MINI, cores)
    assert 1e6 / (plan.hours * 3600) == pytest.approx(60.4, rel=0.001)
    assert (plan.steps, plan.nodes, plan.data_actors) == (1e6 / 64, 1, 1)


def test_a_store_is_counted_by_hand():
    """10 million groups in 3 languages of 100 + 10 bytes: 3.3 GB of text, a third of it on disk. In memory 10 bytes
    a document, and of 1,000 bytes a group a 64th and a tenth."""
    constants = replace(
        Constants(), versions=3, text_bytes=100, compression=1 / 3, document_bytes=10, group_memory_bytes=1000, held_out=0.1  # noqa: E501
    )  # fmt: skip
    plan = plan_training(1e7, MINI, constants)
    assert plan.disk_gb == pytest.approx(1.1)
    assert plan.prepare_disk_gb == pytest.approx(4.4)
    assert plan.prepare_memory_gb == pytest.approx(0.1 + 10 / 64 + 1)
    assert plan.prepare_hours == pytest.approx(1010 / 3600)


def test_gpus_divide_hours_and_multiply_nodes():
    eight = plan_training(1e8, "FacebookAI/xlm-roberta-base", Constants())
    many = plan_training(1e8, "FacebookAI/xlm-roberta-base", replace(Constants(), gpus=24))
    assert (eight.nodes, many.nodes) == (1, 3)
    assert many.hours == pytest.approx(eight.hours / 3)
    assert many.gpu_hours == pytest.approx(eight.gpu_hours)
    assert many.memory_gb > eight.memory_gb


def test_memory_of_workers_is_weights_gradients_and_two_moments():
    """mini with 1,000 entries of 256: 3,401,728 weights of 16 bytes each worker; one data actor of 600 MB."""
    constants = replace(Constants(), vocabulary=1000, gpus=4, builder_mb=600, builder_pairs_per_s=1e12)
    assert plan_training(1e6, MINI, constants).memory_gb == pytest.approx(4 * 3_401_728 * 16 / 1e9 + 0.6)


def test_a_query_waits_for_two_hops_its_encoding_and_its_slowest_shard():
    """10 tokens of mini are 62.9e6 operations: 12.58 ms of a core of 5e9, 6.29 ms on half of 4 cores. One shard: 2
    ms. Hops: 6.
    """
    constants = replace(
        Constants(), query_tokens=10, encode_core_flops=5e9, query_core_s=2e-3, hop_ms=3, node_cores=4
    )  # fmt: skip
    plan = plan_index(1e6, 384, MINI, constants)
    assert plan.p50_ms == pytest.approx(6.29 + 2 + 6, abs=0.01)
    assert plan.encoded_per_s == pytest.approx(4 / 12.58e-3, rel=0.001)
    # 32,768 lists of 768 dimensions in place of 4,096 of 384: 47.2e6 operations more for each shard, of a core of 1e9.
    large = plan_index(1e8, 768, MINI, replace(constants, core_flops=1e9, node_memory_gb=1e6))
    assert large.searches_per_s == pytest.approx(4 / (100 * (2e-3 + 47.19e-3)), rel=0.001)


@pytest.mark.parametrize("dimension", [128, 768, 1024])
def test_more_passages_never_need_less(dimension):
    def needs(plan: IndexPlan):
        return (
            plan.shards, plan.disk_gb, plan.build_disk_gb, plan.build_memory_gb, plan.memory_gb, plan.nodes,
            *plan.hours.values(),
        )  # fmt: skip

    plans = [needs(plan_index(n, dimension, MINI, Constants())) for n in (1e4, 2e5, 1e6, 5e6, 1e7, 1e8)]
    for small, large in pairwise(plans):
        # Writing shards is spread over the nodes, so its hours alone may fall.
        assert all(a <= b for n, (a, b) in enumerate(zip(small, large, strict=True)) if n != 9)


# What a user gives


def test_nothing_given_is_the_three_sizes():
    asked = parse_request([])
    assert (asked.passages, asked.groups, asked.dimension) == (SIZES, SIZES, 768)
    assert asked.constants == Constants()


def test_given_values_are_used():
    asked = parse_request(["passages=2.5e7", "gpus=4", "encoder=mini", "gpu_flops=1e12"])
    assert (asked.passages, asked.groups) == ((2.5e7,), SIZES)
    assert (asked.encoder, asked.dimension) == ("mini", 256)  # its hidden size
    assert asked.constants == replace(Constants(), gpus=4, gpu_flops=1e12)
    assert parse_request(["encoder=mini", "dimension=100"]).dimension == 100


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gpu_flop=1", "unknown key 'gpu_flop'; did you mean 'gpu_flops'"),
        ("zzz=1", "unknown key 'zzz'; known keys: core_flops"),
        ("gpus", "must look like passages=1e8, got 'gpus'"),
        ("gpus=0", "gpus must be a number above 0, got '0'"),
        ("passages=-5", "passages must be a number above 0, got '-5'"),
        ("hop_ms=fast", "hop_ms must be a number above 0, got 'fast'"),
        ("hop_ms=nan", "above 0, got 'nan'"),
        ("batch=inf", "above 0, got 'inf'"),
        ("held_out=1.5", "held_out is a share, at most 1, got 1.5"),
        ("dimension=1.5", "dimension must be a whole number, got 1.5"),
        ("encoder=nobody/knows", "encoder 'nobody/knows' is not known; known are tiny"),
    ],
)
def test_what_cannot_be_is_refused(word, message):
    with pytest.raises(InputError) as error:
        parse_request([word])
    assert message in str(error.value)


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["hybrid-ir", "plan-capacity", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    return left.value.code, out, err


def test_the_command_says_what_is_measured_assumed_and_the_users(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "passages=3000000", "node_cores=3")
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert code == 0
    assert lines["3,000,000"][2] == "3"  # shards
    assert lines["100,000,000"][-1] == "19"  # GPU hours of an epoch: 1e8 * 150 * 6 * 85e6 / 109e12 s
    assert "10,000,000" in lines
    assert (lines["node_cores"][1], lines["node_cores"][-1]) == ("3", "yours")
    assert "measured" in lines["hop_ms"]
    assert "assumed" in lines["gpu_flops"]


def test_the_command_refuses_with_exit_code_2(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "gpuss=2")
    assert (code, out) == (2, "")
    assert "did you mean 'gpus'" in err


# What it assumes of the plan and of the layout


def test_a_plan_of_a_hundred_million_groups_in_eighteen_languages_makes_no_array_near_that_size():
    partitions = [
        *(Partition(x, (x,), 2_500_000) for x in LANGUAGES),
        *(Partition(f"en+{x}", tuple(sorted(("en", x))), 2_000_000) for x in LANGUAGES if x != "en"),
        Partition("all", LANGUAGES, 21_000_000),
    ]
    assert sum(p.rows for p in partitions) == 100_000_000
    tracemalloc.start()
    plan = make_plan(partitions, weights={"monolingual": 0.5, "cross_lingual": 0.5}, batch_size=1024, seed=0)
    seen = set()
    for step in (0, 1, 2, 50_000, 97_655, 2**31):
        batch = plan.batch(step)
        for partition, row, pair in zip(batch.partition_B.tolist(), batch.row_B.tolist(), batch.pairs, strict=True):
            assert 0 <= row < partitions[partition].rows
            assert set(pair) <= set(partitions[partition].languages)
            seen |= set(pair)
        assert len(set(zip(batch.partition_B.tolist(), batch.row_B.tolist(), strict=True))) == 1024
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == set(LANGUAGES)
    assert peak < 20e6  # a bit a group would be 12.5e6, a number a group 400e6


def test_cutting_shards_takes_two_numbers_a_passage_and_no_more():
    n = 1_000_000
    languages = np.random.default_rng(0).integers(0, 18, n).astype(np.int16)
    tracemalloc.start()
    parts = cut_shards(languages, LANGUAGES, 7, "language", seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 19 * n
    assert {len(part) for part in parts} == {n // 7, n // 7 + 1}
    order = np.concatenate(parts)
    assert (languages[order] == np.sort(languages)).all()  # the names are in the alphabet's order
    assert all((np.diff(order[languages[order] == x]) > 0).all() for x in range(18))
