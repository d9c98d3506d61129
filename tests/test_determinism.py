"""The same command twice gives the same: with one worker the same bits, with two the same batches and nearly the same
losses (their sums may be made in another order).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from training_runs import experiment
from training_store import make_store

pytestmark = pytest.mark.slow

SETTINGS = ("train.steps=30", "train.trackers=[]", "encoder.dropout=0.1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, ray_cluster):
    """Trains on one store with so many workers, and returns the run."""
    from hybrid_ir.training.run import train

    folder = tmp_path_factory.mktemp("determinism")
    make_store(folder / "store")

    def run(name: str, workers: int, *more: str) -> Path:
        out = folder / name
        train(experiment(folder / "store", out, *SETTINGS, f"train.workers={workers}", *more), ray_cluster)
        return out

    return run


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def batches(run: Path) -> str:
    return json.loads((run / "metrics.json").read_text())["batches_hash"]


def test_two_trainings_are_the_same(trained):
    """With two workers the batches are the same. What comes of them, test_two_workers_train_what_they_trained says."""
    # When checkpoints are saved, and how batches are fed, is not what is trained.
    first, again = trained("first", 1), trained("again", 1, "train.checkpoint_every=7", "train.feed=ray_data")
    ours, theirs = (load_file(run / "checkpoint" / "model.safetensors") for run in (first, again))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert np.array_equal(value, theirs[name]), name

    assert batches(first) == batches(again) == batches(trained("two", 2))


@pytest.mark.long
def test_two_workers_train_what_they_trained(trained):
    two, twice = trained("two", 2), trained("twice", 2)
    assert batches(two) == batches(twice)
    common = losses(two).keys() & losses(twice).keys()
    assert common >= {10, 20, 30}
    for step in common:
        assert losses(two)[step] == pytest.approx(losses(twice)[step], abs=1e-5), step
