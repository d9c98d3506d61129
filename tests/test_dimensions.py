"""Shorter vectors: a folder gives the beginnings of those that the whole encoder gives, in our code and others'."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TEXTS, make_labse, make_xlm_roberta
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from hybrid_ir.cli.app import app
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.encoders import encode, keep_dimensions, load_encoder, space_of
from hybrid_ir.encoders.portable import save_encoder
from hybrid_ir.training.checkpoint import load_model
from hybrid_ir.training.initial_model import describe_encoder
from hybrid_ir.types import InputError


def test_the_command_writes_an_encoder_of_the_first_values_at_unit_length(tmp_path: Path):
    whole = str(make_xlm_roberta(tmp_path / "whole"))
    before = encode(load_encoder(whole), TEXTS, role="query", precision="fp32")
    done = CliRunner().invoke(
        app, ["encoder", "shorten", "--checkpoint", whole, "--dimension", "5", "--out", str(tmp_path / "short")]
    )
    assert done.exit_code == 0, done.output
    assert f"vectors of 5 values, of {before.shape[1]}" in done.output
    expected = before[:, :5] / np.linalg.norm(before[:, :5], axis=1, keepdims=True)
    short = load_encoder(str(tmp_path / "short"))
    np.testing.assert_allclose(encode(short, TEXTS, role="query", precision="fp32"), expected, atol=1e-6)
    assert space_of(short)["id"] != space_of(load_encoder(whole))["id"]
    foreign = SentenceTransformer(str(tmp_path / "short"), device="cpu")
    np.testing.assert_allclose(foreign.encode(TEXTS, prompt_name="query"), expected, atol=1e-6)
    assert "first 5 of the" in (tmp_path / "short" / "README.md").read_text()


def test_an_encoder_with_a_dense_layer_of_its_own_can_be_shortened(tmp_path: Path):
    model = load_encoder(str(make_labse(tmp_path / "labse")))
    before = encode(model, TEXTS, role="document", precision="fp32")
    keep_dimensions(model, 3)
    expected = before[:, :3] / np.linalg.norm(before[:, :3], axis=1, keepdims=True)
    np.testing.assert_allclose(encode(model, TEXTS, role="document", precision="fp32"), expected, atol=1e-6)


@pytest.mark.parametrize("asked", [-1, 0, 32, 33])
def test_a_dimension_that_is_not_shorter_is_refused(tmp_path: Path, asked: int):
    model = load_encoder(str(make_xlm_roberta(tmp_path / "whole", hidden=32)))
    with pytest.raises(InputError, match=rf"has 32 values, got --dimension {asked}; give 1 or more and less than 32"):
        keep_dimensions(model, asked)


def test_a_training_at_more_dimensions_than_there_are_is_refused_before_it_starts(tmp_path: Path):
    model = load_encoder(str(make_xlm_roberta(tmp_path / "whole")))
    longest = model.get_embedding_dimension()
    experiment = load_experiment(None, [f"loss.dimensions=[{longest}, 2]", "encoder.name=mine"])
    with pytest.raises(
        InputError, match=rf"loss\.dimensions has \[{longest}\], and a vector of mine has {longest} val"
    ):
        describe_encoder(experiment, model)


def test_an_encoder_says_which_dimensions_it_was_trained_for(tmp_path: Path):
    name = str(make_xlm_roberta(tmp_path / "whole", hidden=32))
    assert "shorter" not in space_of(load_encoder(name))

    def trained(name: str, out: str, *overrides: str) -> str:
        save_encoder(load_model(load_experiment(None, overrides), name, torch.device("cpu")), tmp_path / out)
        return str(tmp_path / out)

    several = trained(name, "several", "loss.dimensions=[8, 16, 4]")
    assert json.loads((tmp_path / "several" / "config.json").read_text())["matryoshka_dimensions"] == [16, 8, 4]
    assert space_of(load_encoder(several))["shorter"] == [16, 8, 4]
    # What is shortened has been trained at what is shorter still, and a training without them ends it.
    short = load_encoder(several)
    keep_dimensions(short, 8)
    save_encoder(short, tmp_path / "short")
    assert space_of(load_encoder(str(tmp_path / "short")))["shorter"] == [4]
    assert "shorter" not in space_of(load_encoder(trained(several, "plain")))


@pytest.mark.parametrize("said", [["16"], 16, [True], [0, -1, 32, 64], {"a": 1}, None])
def test_what_a_foreign_config_says_of_dimensions_is_taken_if_it_can_be_meant(tmp_path: Path, said):
    folder = make_xlm_roberta(tmp_path / "whole", hidden=32)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "matryoshka_dimensions": said}))
    assert "shorter" not in space_of(load_encoder(str(folder)))
