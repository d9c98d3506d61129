"""Both feeds hand every rank the same batches, in order, whatever the ranks' pace."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest
from training_store import make_reader, make_store

from hybrid_ir.batches.batch import Batch, slice_sizes
from hybrid_ir.batches.feed import in_process_feed
from hybrid_ir.batches.from_experiment import builder_for, plan_for
from hybrid_ir.config.loading import parse_experiment
from hybrid_ir.data.store import open_store
from hybrid_ir.types import InputError


def same(a: Batch, b: Batch) -> bool:
    """Equal in every field: rows, tokens, ids, languages."""
    if (a.step, a.kind, a.pairs) != (b.step, b.kind, b.pairs):
        return False
    tokens = zip(a.query_tokens + a.passage_tokens, b.query_tokens + b.passage_tokens, strict=True)
    return (
        all(np.array_equal(x, y) for x, y in tokens)
        and np.array_equal(a.passage_ids_BLS, b.passage_ids_BLS)
        and np.array_equal(a.passage_language_B, b.passage_language_B)
    )


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feed")
    make_store(folder / "store")
    experiment = parse_experiment(
        {
            "store": str(folder / "store"),
            "batch": {"size": 10, "mix": {"monolingual": 1, "cross_lingual": 1, "multilingual": 1}},
            "encoder": {"max_tokens": 32},
        },
        "test",
    )
    store = open_store(experiment.store)
    reader = make_reader(store, folder / "model")
    return partial(builder_for, experiment, store, plan_for(store, experiment), reader)


def test_the_in_process_feed_yields_what_the_builder_builds_from_any_step(builder):
    made = builder()
    for batch, step in zip(in_process_feed(builder(), 7, 20), range(7, 20), strict=True):
        assert same(batch, made.build(step))


def test_an_error_of_the_builder_reaches_the_trainer(builder):
    class Broken:
        def build(self, step: int) -> Batch:
            if step == 3:
                raise InputError("block 3 cannot be read")
            return builder().build(step)

    feed = in_process_feed(Broken(), 0, 10)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="block 3"):
        list(feed)


def test_closing_the_feed_early_ends_its_thread(builder):
    import threading

    feed = in_process_feed(builder(), 0, 1000)
    next(feed)
    assert [t for t in threading.enumerate() if t.name.startswith("batch-builder")]
    feed.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batch-builder")]


def test_slices_of_any_number_of_workers_put_together_are_the_global_batch():
    for size in (4, 10, 33, 64):
        for workers in (1, 2, 3, 4):
            sizes = slice_sizes(size, workers)
            assert sum(sizes) == size
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.slow
def test_ray_data_feed_equals_the_in_process_feed_over_500_steps_with_a_slow_rank(builder, ray_cluster):
    import ray

    from hybrid_ir.batches.ray_feed import ChunkIndex, ray_data_feed

    start, end, workers = 5, 505, 2
    index = (
        ray.remote(ChunkIndex)
        .options(num_cpus=0, max_concurrency=workers + 2)
        .remote(builder, start, end, workers, 2, 0.5)
    )

    @ray.remote(num_cpus=0.25)
    def consume(rank: int, pause_s: float) -> list[bytes]:
        import pickle

        received = []
        for batch in ray_data_feed(index, rank, start, end):
            assert not batch.query_tokens.flat.flags.owndata  # it lies in the chunk: a rank copies its slice alone
            received.append(pickle.dumps(batch))
            if batch.step % 50 == 0:
                time.sleep(pause_s)
        return received

    import pickle

    slow, fast = ray.get([consume.remote(0, 0.3), consume.remote(1, 0.0)])
    expected = list(in_process_feed(builder(), start, end))
    assert len(slow) == len(fast) == len(expected) == 500
    for a, b, c in zip(slow, fast, expected, strict=True):
        assert same(pickle.loads(a), c)
        assert same(pickle.loads(b), c)


@pytest.mark.slow
def test_an_unreadable_store_is_an_error_at_the_ranks_of_a_ray_data_feed(builder, ray_cluster):
    import ray

    from hybrid_ir.batches.ray_feed import ChunkIndex, ray_data_feed

    def broken():
        raise InputError("store/part-00000.parquet cannot be read")

    index = ray.remote(ChunkIndex).options(num_cpus=0, max_concurrency=3).remote(broken, 0, 16, 1, 1, 0.5)
    with pytest.raises(Exception, match="part-00000"):
        next(ray_data_feed(index, 0, 0, 16))
