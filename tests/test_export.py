"""Exported encoders: the same vectors from ONNX Runtime alone, what 8 bits lose, and what the command leaves."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from checkpoints import TEXTS, make_labse, make_preset
from conftest import make_group, write_store

from hybrid_ir.cli import app as cli
from hybrid_ir.encoders.embedding import encode
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.onnx_export import export_onnx, load_onnx
from hybrid_ir.evaluation.comparisons import export_loss
from hybrid_ir.types import Candidate, Collection, InputError, Query

DOCS = Path(__file__).parents[1] / "docs" / "serve.md"


@pytest.fixture(scope="module")
def labse(tmp_path_factory) -> tuple:
    """An encoder with a dense layer, and the folder of its export in fp32."""
    folder = tmp_path_factory.mktemp("labse")
    model = load_encoder(str(make_labse(folder / "made")), query_prefix="query: ", passage_prefix="passage: ")
    export_onnx(model, folder / "export")
    return model, folder / "export"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """`encoder`, a preset, and `store`, of forty groups in two languages."""
    work = tmp_path_factory.mktemp("work")
    make_preset(work / "encoder")
    write_store(work / "store", [make_group(n, ("de", "en")) for n in range(40)])
    return work


@pytest.fixture
def run(work, monkeypatch, capsys):
    """Runs `encoder export` in `work`; returns its exit code and what it says."""

    def run(out: str, *more: str, checkpoint: str = "encoder", path: str = "store") -> tuple[int, str]:
        monkeypatch.chdir(work)
        command = ["hybrid-ir", "encoder", "export", "--checkpoint", checkpoint, "--path", path, "--out", out, *more]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out + captured.err

    return run


def test_the_graph_gives_the_encoders_vectors_for_any_number_and_length_of_texts(labse):
    """One text and eight, short and cut: the sizes of the graph are not those that it was made with."""
    model, folder = labse
    export = load_onnx(folder)
    assert export.max_seq_length == model.max_seq_length == 20
    texts = [*TEXTS, "a", " ".join(TEXTS)]
    for role in ("query", "document"):
        for some in (texts[:1], texts):
            ours = encode(model, some, role=role, precision="fp32")
            assert np.abs(ours - encode(export, some, role=role, precision="fp32")).max() < 1e-5


def test_the_folder_holds_no_weights_twice(labse):
    """Those of the dense layer stay for sentence-transformers, which computes it outside of the graph."""
    _, folder = labse
    weights = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.suffix in (".safetensors", ".onnx")}
    assert weights == {"onnx/model.onnx", "2_Dense/model.safetensors"}


def test_the_graphs_names_and_operators_are_the_documented_ones(labse):
    graph = onnx.load(labse[1] / "onnx" / "model.onnx")
    assert [each.name for each in graph.graph.input] == ["input_ids", "attention_mask"]
    assert [each.name for each in graph.graph.output] == ["last_hidden_state", "sentence_embedding"]
    assert {each.domain: each.version for each in graph.opset_import}[""] == 18


def test_the_lines_in_the_docs_give_the_encoders_vectors(labse, monkeypatch, tmp_path):
    """They are run as they stand there, in a folder where `exported` is this export."""
    code = next(x for x in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "onnxruntime" in x)
    model, folder = labse
    (tmp_path / "exported").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    said: dict = {}
    exec(code, said)
    expected = encode(model, said["texts"], role="query", precision="fp32")
    assert np.abs(expected - said["vectors"]).max() < 1e-5


def test_the_command_measures_what_8_bits_lose(run, work):
    code, said = run("small", "--int8")
    assert code == 0, said
    measured = json.loads((work / "small" / "export.json").read_text())
    assert measured["int8"]
    assert measured["opset"] == 18
    assert measured["bytes"] == (work / "small" / "onnx" / "model.onnx").stat().st_size < measured["original_bytes"]
    assert measured["texts"] == 2 * 2 * 8  # a fifth of the groups, a question and a passage in two languages
    assert list(measured["per_language"]) == ["de", "en"]
    original = load_encoder(str(work / "encoder"))
    vectors = [encode(each, TEXTS, role="query", precision="fp32") for each in (original, load_onnx(work / "small"))]
    cosines = np.einsum("td,td->t", *vectors)
    assert 0.99 < cosines.min() < 1 - 1e-6  # 8 bits are not 32, and not noise
    assert 0.99 < measured["cosine"]["least"] <= measured["cosine"]["mean"] < 1 - 1e-6
    assert f"{measured['per_language']['de']['AP_mono']['export']:.3f}" in said
    assert "texts/s" in said


def test_a_loss_is_told_by_language(monkeypatch):
    """By hand: the export turns German vectors by 60 degrees, whose cosine is a half, and finds the wrong passage."""
    angle = {"q-en": 0, "p1-en": 0, "p2-en": 90, "q-de": 0, "p1-de": 20, "p2-de": 90}
    turned = {**angle, "q-de": 60, "p1-de": -40, "p2-de": 30}  # 20 - 60 and 90 - 60

    def fake(model, texts, *, role, precision, languages=None, progress=lambda texts: None):
        progress(len(texts))
        radians = np.radians([model.angle[text] for text in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)

    monkeypatch.setattr(export_loss, "encode", fake)
    queries = [Query(f"q-{x}", "g1", x, f"q-{x}") for x in ("de", "en")]
    candidates = [Candidate(f"p{n}-{x}", (f"g{n}",), x, f"p{n}-{x}", f"d{n}") for x in ("de", "en") for n in (1, 2)]
    models = [SimpleNamespace(angle=each, parameters=lambda: []) for each in (angle, turned)]
    done: list[int] = []
    measured = export_loss.compare_export(*models, Collection("c", queries, candidates), done.append)  # type: ignore[arg-type]
    assert measured["per_language"]["de"]["cosine"] == pytest.approx(0.5, abs=1e-6)
    assert measured["per_language"]["en"]["cosine"] == pytest.approx(1, abs=1e-6)
    # 60 degrees is 100 from the right passage and 30 from the wrong one: second place, AP a half.
    assert measured["per_language"]["de"]["AP_mono"] == {"original": 1.0, "export": 0.5}
    assert measured["per_language"]["en"]["AP_mono"] == {"original": 1.0, "export": 1.0}
    assert measured["averages"]["AP_mono"] == {"original": 1.0, "export": 0.75}
    assert measured["cosine"] == {"mean": pytest.approx(0.75, abs=1e-6), "least": pytest.approx(0.5, abs=1e-6)}
    assert sum(done) == 2 * len([*queries, *candidates])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"out": "store"}, "store exists already; choose another --out"),
        ({"checkpoint": "store"}, "'store' is not a model"),
        ({"path": "nowhere"}, "nowhere"),
    ],
)
def test_a_mistake_is_said_and_leaves_nothing(run, work, more, message):
    before = sorted(work.rglob("*"))
    code, said = run(**{"out": "new", **more})
    assert code == 2
    assert message in said
    assert sorted(work.rglob("*")) == before


def test_an_export_that_fails_midway_leaves_nothing(run, work, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hybrid_ir.evaluation.comparisons.export_loss.encode", full)
    monkeypatch.setattr("hybrid_ir.encoders.onnx_export._export", lambda model, file, beside: file.write_bytes(b""))
    monkeypatch.setattr("hybrid_ir.encoders.onnx_export._Session.__init__", full)
    before = sorted(work.rglob("*"))
    code, said = run("new")
    assert code == 1
    assert "the disk is full" in said
    assert sorted(work.rglob("*")) == before


def test_without_the_extra_it_is_named_before_anything_is_loaded(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, said = run("new", checkpoint="no-such-encoder")
    assert code == 2
    assert "needs the package onnxruntime" in said
    assert "pip install 'hybrid-ir[export]'" in said


def test_a_checkpoint_is_no_export(work):
    with pytest.raises(InputError, match=r"is not an exported encoder: it has no onnx/model\.onnx"):
        load_onnx(work / "encoder")
