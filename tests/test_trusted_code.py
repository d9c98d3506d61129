"""Code that came with a model and was trusted by its hash: it runs, nothing else does, and each process is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import TEXTS, make_bert
from indices import sample_passages
from training_runs import OVERRIDES
from training_store import make_store
from without_ray import without_ray

from hybrid_ir.config.experiment import Index
from hybrid_ir.encoders.embedding import encode
from hybrid_ir.encoders.foreign_code import TRUSTED, code_of_its_own, hash_of, own_code
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.packed import can_pack
from hybrid_ir.encoders.portable import save_encoder
from hybrid_ir.encoders.space import difference, space_of
from hybrid_ir.index.build import build_index
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.types import InputError

CODE = """
from transformers import BertConfig, BertModel as Original

from .sign import SIGN


class OwnConfig(BertConfig):
    model_type = "own"


class BertModel(Original):  # under a name that the packed layers know
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.last_hidden_state = out.last_hidden_state.abs() * SIGN
        return out
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An encoder whose vectors have no positive value: its own code sees to that."""
    folder = make_bert(tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.BertModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": names}))
    (folder / "own.py").write_text(CODE)
    (folder / "sign.py").write_text("SIGN = -1.0\n")
    return folder


@pytest.fixture
def trusted(folder, monkeypatch) -> str:
    said = hash_of(own_code(str(folder)) or {})
    monkeypatch.setenv(TRUSTED, f"{'0' * 64}, {said}")
    return said


def vectors(model) -> np.ndarray:
    return encode(model, TEXTS, role="query", precision="fp32")


def test_the_refusal_names_the_hash_and_with_it_the_code_runs_and_says_so(folder, monkeypatch, capsys):
    monkeypatch.delenv(TRUSTED, raising=False)
    with pytest.raises(InputError, match=r"auto_map: 'own\.OwnConfig'.*or read its code, and if you trust it") as no:
        load_encoder(str(folder))
    said = str(no.value).rpartition(f"{TRUSTED}=")[2]
    monkeypatch.setenv(TRUSTED, said)
    model = load_encoder(str(folder))
    assert f"running the Python code that came with {folder} (SHA-256 {said})" in capsys.readouterr().err
    assert not can_pack(model[0].model, None)
    assert vectors(model).max() <= 0


def test_a_changed_file_or_one_more_is_other_code(folder, trusted):
    for path, text in (("sign.py", "SIGN = 1.0\n"), ("more.py", "")):
        before = (folder / path).read_text() if (folder / path).exists() else None
        (folder / path).write_text(text)
        with pytest.raises(InputError, match="names Python code of the model's own"):
            load_encoder(str(folder))
        if before is None:
            (folder / path).unlink()
        else:
            (folder / path).write_text(before)
    load_encoder(str(folder))


def test_what_is_saved_has_the_code_and_needs_the_same_consent(folder, trusted, tmp_path, monkeypatch):
    model = load_encoder(str(folder))
    save_encoder(model, tmp_path / "saved")
    again = load_encoder(str(tmp_path / "saved"))
    np.testing.assert_array_equal(vectors(again), vectors(model))
    assert space_of(again) == space_of(model)
    assert hash_of(own_code(str(tmp_path / "saved")) or {}) == trusted
    monkeypatch.delenv(TRUSTED)
    with pytest.raises(InputError, match=f"set {TRUSTED}={trusted}"):
        load_encoder(str(tmp_path / "saved"))


def test_the_space_id_knows_the_code(folder, trusted, monkeypatch):
    one = space_of(load_encoder(str(folder)))
    with (folder / "own.py").open("a") as file:
        file.write("# changes no vector\n")
    monkeypatch.setenv(TRUSTED, hash_of(own_code(str(folder)) or {}))
    other = space_of(load_encoder(str(folder)))
    assert (difference(one, other), difference(other, one)) == ("code", "code")
    assert one["id"] != other["id"]
    assert "code" not in space_of(load_encoder(str(make_bert(folder.parent / "plain"))))["parts"]


def test_code_in_another_repository_is_never_run(folder, trusted):
    """Its hash is not that of the folder."""
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "own.OwnConfig", "AutoModel": "somebody/else--own.BertModel"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": names}))
    with pytest.raises(InputError, match="lies in another repository, and no hash of this folder holds it"):
        load_encoder(str(folder))


def test_a_name_on_the_hub_is_refused_with_the_command_that_pins_it(folder, monkeypatch):
    """As the hub would show it, by a reader that finds the folder's files under that name."""
    found = lambda name, file, revision=None, **_: str(folder / file) if (folder / file).is_file() else None  # noqa: E731
    monkeypatch.setattr("hybrid_ir.encoders.foreign_code.load_file_path", found)
    said = code_of_its_own("somebody/model", "main")
    assert said is not None
    assert "hf download somebody/model --revision COMMIT --local-dir FOLDER" in said


@pytest.mark.parametrize("value", ["1", "true", "*", "a" * 63])
def test_only_hashes_are_a_consent(folder, monkeypatch, value):
    monkeypatch.setenv(TRUSTED, value)
    with pytest.raises(InputError, match=f"{TRUSTED} must be hashes of 64 hexadecimal digits"):
        load_encoder(str(folder))


def test_an_index_is_served_only_where_the_code_is_trusted_again(folder, trusted, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    passages = tmp_path / "passages.jsonl"
    rows = [{"doc_id": p.doc_id, "text": p.text, "language": p.language} for p in sample_passages(12)]
    passages.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    build_index(str(folder), [str(passages)], str(tmp_path / "index"), Index(), seed=0)
    LocalRelease(str(tmp_path / "index")).close()
    monkeypatch.delenv(TRUSTED)
    with pytest.raises(InputError, match=f"set {TRUSTED}={trusted}"):
        LocalRelease(str(tmp_path / "index"))


@pytest.mark.slow
@pytest.mark.long
def test_a_training_reaches_its_workers_with_the_consent_and_publishes_the_code(folder, trusted, tmp_path):
    """docs/security.md, "Code of a model's own"."""
    make_store(tmp_path / "store", n=120)
    asked = [*OVERRIDES, f"store={tmp_path / 'store'}", f"out={tmp_path / 'run'}", f"encoder.name={folder}"]
    command = [sys.executable, "-m", "hybrid_ir.cli", "train", *asked, "train.steps=4", "train.evaluate_every=4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert f"SHA-256 {trusted}" in done.stderr
    assert (tmp_path / "run" / "checkpoint" / "sign.py").read_text() == "SIGN = -1.0\n"
    assert "trust_remote_code=True" in (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert vectors(load_encoder(str(tmp_path / "run" / "checkpoint"))).max() <= 0
