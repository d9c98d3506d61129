"""Models of others: no code that comes with one is run, and nothing outside of its folder is shown.

Each test is a claim of docs/security.md.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from checkpoints import make_labse, make_preset, make_xlm_roberta
from indices import sample_passages, write_served_index
from training_runs import experiment
from training_store import make_store
from without_ray import without_ray

from hybrid_ir.config.experiment import Index
from hybrid_ir.encoders import loading
from hybrid_ir.encoders.foreign_code import code_of_its_own
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.index.build import build_index
from hybrid_ir.index.folder import describe_files
from hybrid_ir.index.writing import publish
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.training.run import train
from hybrid_ir.types import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def marker(tmp_path):
    """A file that the code of every model here would write, and the text of such code."""
    return tmp_path / "the-code-was-run"


def add_code(folder: Path, marker: Path) -> None:
    """A Python file of the model's own, with every class that its configs will name."""
    classes = "".join(
        f"class {name}:\n    load = from_pretrained = None\n" for name in ("Own", "OwnConfig", "OwnModel")
    )
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n{classes}")


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | changes))


def rename_module(folder: Path, name: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[-1]["type"] = name
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.fixture(
    params=["a known architecture", "an unknown architecture", "a tokenizer", "a module", "a nested module"]
)
def model(request, tmp_path, marker):
    """A model folder of each kind that names code of its own."""
    folder = tmp_path / "model"
    match request.param:
        case "a known architecture":  # transformers alone would read it as XLM-R, and say nothing
            make_xlm_roberta(folder)
            edit(folder / "config.json", auto_map={"AutoModel": "own.OwnModel"})
        case "an unknown architecture":
            make_xlm_roberta(folder)
            names = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
            edit(folder / "config.json", auto_map=names, model_type="own")
        case "a tokenizer":
            make_preset(folder)
            edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]})
        case "a module":
            make_labse(folder)
            rename_module(folder, "own.Own")
        case _:
            make_labse(folder)
            edit(folder / "2_Dense" / "config.json", types={"a": "own.Own"}, structure={"a": ["a"]})
            rename_module(folder, "sentence_transformers.models.Router")
    add_code(folder, marker)
    return folder


def test_code_that_comes_with_a_model_is_not_run(model, marker, monkeypatch):
    """Not even if somebody, or something, answers "y" at the terminal."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(
        InputError, match=r"cannot be used: its \S+ names .*own\.Own.*; choose a model that transformers"
    ):
        load_encoder(str(model))
    assert not marker.exists()


def test_a_training_that_is_refused_for_code_leaves_no_folder(tmp_path, marker):
    make_xlm_roberta(tmp_path / "model")
    edit(tmp_path / "model" / "config.json", auto_map={"AutoModel": "own.OwnModel"}, model_type="own")
    add_code(tmp_path / "model", marker)
    make_store(tmp_path / "store")
    before = sorted(path.name for path in tmp_path.iterdir())
    asked = experiment(tmp_path / "store", tmp_path / "runs" / "a", f"encoder.name={tmp_path / 'model'}")
    with pytest.raises(InputError, match=r"cannot be used: its config\.json names Python code"):
        train(asked, {"CPU": 8.0})
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not marker.exists()


def test_neither_a_build_nor_a_service_runs_it(tmp_path, marker, monkeypatch):
    """An index brings its encoder along: here one whose manifest says that the code belongs to it."""
    without_ray(monkeypatch)
    make_xlm_roberta(tmp_path / "model")
    edit(tmp_path / "model" / "config.json", auto_map={"AutoModel": "own.OwnModel"}, model_type="own")
    add_code(tmp_path / "model", marker)
    (tmp_path / "passages.jsonl").write_text('{"doc_id": "a", "text": "b", "language": "en"}\n')
    said = r"names Python code of the model's own \(auto_map: 'own.OwnModel'\)"
    with pytest.raises(InputError, match=said):
        build_index(str(tmp_path / "model"), [str(tmp_path / "passages.jsonl")], str(tmp_path / "out"), Index(), seed=0)
    assert not (tmp_path / "out").exists()

    index = tmp_path / "index"
    manifest = write_served_index(index, sample_passages(12))
    shutil.copytree(tmp_path / "model", index / "encoder", dirs_exist_ok=True)
    names = [path.relative_to(index).as_posix() for path in (index / "encoder").rglob("*") if path.is_file()]
    publish(index, manifest.model_copy(update={"files": manifest.files | describe_files(index, names)}))
    with pytest.raises(InputError, match=said):
        LocalRelease(str(index))
    assert not marker.exists()


def test_only_the_loader_makes_models_and_it_says_that_code_is_not_trusted():
    """A second place that loads a model would need the same care: there is none."""
    for file in (ROOT / "hybrid_ir").rglob("*.py"):
        text = file.read_text()
        # The card tells whoever loads the checkpoint elsewhere to trust it, where its code was trusted here.
        assert "trust_remote_code=True" not in text.replace(" ", "") or file.name == "card.py", file
        makes = [name for name in ("SentenceTransformer(", "AutoModel.", "AutoTokenizer.") if f"= {name}" in text]
        # An export and an encoder restored from numbers are written by this project itself; a reranker is looked at
        # by the same functions as an encoder is (tests/test_reranker.py).
        own = ("loading.py", "presets.py", "card.py", "onnx_export.py", "restored.py", "reranker.py")
        assert not makes or file.name in own, (file, makes)


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "sentence_transformersX.models.Pooling", None, 7])
def test_a_module_of_anything_else_that_is_installed_is_refused_before_it_is_imported(tmp_path, name):
    make_labse(tmp_path / "model")
    rename_module(tmp_path / "model", name)
    assert code_of_its_own(str(tmp_path / "model")).startswith(f"its modules.json names {name!r}, which is not of")
    with pytest.raises(InputError, match="which is not of sentence-transformers; choose a model"):
        load_encoder(str(tmp_path / "model"))


def test_a_model_of_the_libraries_names_no_code(tmp_path):
    for make in (make_preset, make_xlm_roberta, make_labse):
        assert code_of_its_own(str(make(tmp_path / make.__name__))) is None


# What lies outside of the folder


@pytest.mark.parametrize("path", ["../secret", "/etc", "2_Dense/../../secret"])
def test_a_module_outside_of_the_folder_is_not_read(tmp_path, path):
    make_labse(tmp_path / "model")
    (tmp_path / "model" / "2_Dense").rename(tmp_path / "secret")
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    modules[2]["path"] = path
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match="is not a model that can be loaded"):
        load_encoder(str(tmp_path / "model"))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_of_a_file_that_a_link_leads_to_nothing_is_shown(tmp_path, file):
    """Links are followed, as the hub's own cache is made of them. What is not a model's is refused unseen."""
    make_xlm_roberta(tmp_path / "model")
    (tmp_path / "secret").write_text("the-secret-of-the-machine")
    (tmp_path / "model" / file).unlink()
    (tmp_path / "model" / file).symlink_to(tmp_path / "secret")
    with pytest.raises(InputError) as refused:
        load_encoder(str(tmp_path / "model"))
    assert "the-secret" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_model_that_is_links_into_another_folder_is_loaded(tmp_path):
    """As a snapshot in the hub's cache is: each file a link to ../../blobs."""
    make_xlm_roberta(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(Path("..") / "blobs" / file.name)
    assert load_encoder(str(tmp_path / "snapshot")).max_seq_length == 32


@pytest.mark.parametrize("error", [OSError("no route to host"), TimeoutError("timed out")])
def test_a_name_that_is_nowhere_is_said_as_soon_as_the_hub_does_not_answer(monkeypatch, tmp_path, error):
    """Asked once, and with a limit: the libraries would ask for each file again and again."""
    asked = []

    def away(name, **limits):
        asked.append((name, limits))
        raise error

    monkeypatch.setattr(loading, "model_info", away)
    monkeypatch.setattr(loading.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loading.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=rf"'nobody/nothing' is neither a folder here nor reachable .*\({error}\)"):
        load_encoder("nobody/nothing@v1")
    assert asked == [("nobody/nothing", {"revision": "v1", "timeout": 5})]


def test_a_model_that_is_kept_here_is_loaded_without_asking_whether_there_is_a_hub(monkeypatch):
    monkeypatch.setattr(loading, "model_info", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(loading, "try_to_load_from_cache", lambda name, file, revision: f"/cache/{file}")
    monkeypatch.setattr(loading.constants, "HF_HUB_OFFLINE", False)
    assert loading.source_of("somebody/something@v2") == ("somebody/something", "v2")
