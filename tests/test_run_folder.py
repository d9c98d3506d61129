"""Whether a run folder holds this training: another seed, precision or store is refused, with both values."""

from __future__ import annotations

import json

import pytest

from hybrid_ir.config.loading import load_experiment
from hybrid_ir.training.run_folder import is_complete
from hybrid_ir.types import InputError


@pytest.fixture
def run(tiny_store, tmp_path):
    """A run of seed 3 in float32 that was stopped; returns what is found of one with other settings."""
    out = tmp_path / "run"

    def experiment(*overrides: str):
        return load_experiment(None, ["seed=3", "train.precision=fp32", f"out={out}", *overrides])

    out.mkdir()
    manifest = {
        "settings": experiment().model_dump(mode="json"), "state": "stopped",
        "store": {"path": "", "content_hash": tiny_store.content_hash},
    }  # fmt: skip
    (out / "manifest.json").write_text(json.dumps(manifest))
    return lambda *overrides: is_complete(experiment(*overrides), tiny_store)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=4", r"seed: 3 -> 4"),
        ("train.precision=bf16", r"train\.precision: 'fp32' -> 'bf16'"),
        ("batch.alpha=0.25", r"batch\.mix\.cross_lingual: 0\.5 -> 0\.75; batch\.mix\.monolingual: 0\.5 -> 0\.25"),
        ("train.precision=auto", r"train\.precision: 'fp32' -> 'auto'"),
    ],
)
def test_a_training_with_another_seed_or_precision_is_not_gone_on_with(run, override, said):
    with pytest.raises(InputError, match=rf"holds a run with other settings \({said}\); choose another out=FOLDER, or"):
        run(override)


def test_the_same_settings_go_on_and_what_changes_no_vector_may_change(run):
    assert run() is False, "it goes on: it is not complete"
    assert run("serve.port=9000") is False


def test_the_same_mix_by_another_name_is_the_same_training(run):
    """So that what one study trained as alpha=0.5 another one finds as its hybrid batches."""
    assert run("batch.mix={monolingual: 2, cross_lingual: 2}") is False  # stopped, and no refusal


def test_a_setting_that_the_runs_version_did_not_have_stood_at_its_default(run, tmp_path):
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["train"]["validation_groups"], manifest["settings"]["loss"]["symmetric"]
    path.write_text(json.dumps(manifest))
    assert run() is False  # stopped, and no refusal
    with pytest.raises(InputError, match=r"loss\.symmetric: False -> True"):
        run("loss.symmetric=true")
