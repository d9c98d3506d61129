"""What a checkpoint holds: the training as it was, to the bit, and no pickle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_preset

from hybrid_ir.batches.batch import Batch
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.encoders.tokens import Tokens
from hybrid_ir.training.checkpoint import Progress, load_state, save_state

CPU = torch.device("cpu")


@pytest.fixture
def experiment(tmp_path):
    return load_experiment(None, [f"encoder.name={make_preset(tmp_path / 'initial')}", "train.precision=fp32"])


def step(state) -> None:
    """One of AdamW, with gradients that are drawn."""
    torch.manual_seed(state.progress.done)
    for parameter in state.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.progress.done += 1


def test_a_training_goes_on_from_it_to_the_same_bits(experiment, tmp_path):
    for name in ("best", "checkpoint", "again"):
        (tmp_path / name).mkdir()
    unbroken = load_state(experiment, experiment.encoder.name, None, tmp_path / "best", CPU)
    for _ in range(3):
        step(unbroken)
    save_state(unbroken, tmp_path / "checkpoint")
    resumed = load_state(experiment, experiment.encoder.name, tmp_path / "checkpoint", tmp_path / "again", CPU)
    assert resumed.progress.done == 3
    for state in (unbroken, resumed):
        for _ in range(3):
            step(state)
    values = zip(unbroken.model.state_dict().items(), resumed.model.state_dict().items(), strict=True)
    for (name, ours), (_, theirs) in values:
        assert torch.equal(ours, theirs), name


def test_it_has_no_pickle(experiment, tmp_path):
    for name in ("best", "checkpoint"):
        (tmp_path / name).mkdir()
    state = load_state(experiment, experiment.encoder.name, None, tmp_path / "best", CPU)
    step(state)
    save_state(state, tmp_path / "checkpoint")
    weights = [path for path in Path(tmp_path / "checkpoint").rglob("*") if path.suffix not in (".json", "")]
    assert {path.suffix for path in weights} == {".safetensors"}
    assert json.loads((tmp_path / "checkpoint" / "progress.json").read_text())["done"] == 1


# The hash of what was trained on


def batch(number: int, passage: int = 7, question: int = 8) -> Batch:
    tokens = Tokens.of([[1, 2]] * 2)
    ids = np.asarray([[[1]], [[passage]]]), np.asarray([[2], [question]])
    pairs, zeros = (("en", "en"),) * 2, np.zeros(2)
    return Batch(number, "monolingual", pairs, tokens, tokens, None, ids[0], zeros, ids[1], zeros, None, None)


def hash_of(*batches: Batch) -> str:
    progress = Progress()
    for each in batches:
        progress.count(each)
    return progress.batches_hash


def test_the_hash_of_the_batches_is_that_of_their_steps_rows_and_order():
    usual = hash_of(batch(0), batch(1))
    assert usual == hash_of(batch(0), batch(1))
    others = [
        hash_of(batch(0)),
        hash_of(batch(1), batch(0)),
        hash_of(batch(0), batch(0), batch(1)),  # a step twice
        hash_of(batch(0), batch(1, passage=9)),
        hash_of(batch(0), batch(1, question=9)),
        hash_of(batch(0), replace(batch(1), pairs=(("en", "de"), ("en", "en")))),
    ]
    assert len({usual, *others}) == 1 + len(others)
