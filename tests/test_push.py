"""Publishing: what is sent, to which repository, and what is refused before anything is. The hub's client is a fake."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from checkpoints import make_labse
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from hybrid_ir.cli import app as cli
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.portable import save_encoder
from hybrid_ir.encoders.push import files_to_push, push_encoder
from hybrid_ir.types import InputError

CARD = '# run\n\n```python\nmodel = SentenceTransformer("PATH")\n```\n'
FILES = [
    "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "3_Normalize/config.json", "README.md",
    "config.json", "config_sentence_transformers.json", "model.safetensors", "modules.json",
    "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json",
]  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """As a training leaves it, with three things beside it that are nobody's business."""
    folder = tmp_path / "checkpoint"
    save_encoder(load_encoder(str(make_labse(tmp_path / "made"))), folder)
    (folder / "README.md").write_text(CARD)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "notes.md").write_text("mine")
    (folder / ".git").mkdir()
    (folder / ".git" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def hub(monkeypatch) -> SimpleNamespace:
    """A hub that has the repositories of `public` (True or False by name) and notes what it is asked, in `calls`."""
    hub = SimpleNamespace(calls=[], public={}, sent={}, token="hf_x", fails=None)

    class FakeApi:
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            hub.calls.append("create_repo")
            if hub.fails:
                raise hub.fails
            assert exist_ok
            hub.public.setdefault(repo_id, not private)

        def model_info(self, repo_id: str) -> Any:
            return SimpleNamespace(private=not hub.public[repo_id])

        def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> None:
            assert exist_ok
            hub.calls.append(f"create_branch {branch}")

        def upload_folder(self, *, repo_id, folder_path, revision, commit_message, delete_patterns) -> Any:
            hub.calls.append(f"upload_folder {repo_id} {revision}")
            assert delete_patterns == "*"
            root = Path(folder_path)
            hub.sent = {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}
            return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/abc")

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: hub.token)
    return hub


def test_the_encoder_and_its_card_are_sent_and_nothing_else(checkpoint, hub):
    assert push_encoder(checkpoint, "me/rhine") == "https://huggingface.co/me/rhine/commit/abc"
    assert sorted(hub.sent) == FILES == files_to_push(checkpoint)
    for name in FILES:
        if name != "README.md":
            assert hub.sent[name] == (checkpoint / name).read_bytes()
    assert hub.calls == ["create_repo", "upload_folder me/rhine None"]
    assert hub.public == {"me/rhine": True}


def test_the_card_names_the_repository_and_the_folders_own_stays(checkpoint, hub):
    push_encoder(checkpoint, "me/rhine")
    assert hub.sent["README.md"].decode() == CARD.replace("PATH", "me/rhine")
    assert (checkpoint / "README.md").read_text() == CARD


def test_a_branch_is_made_before_it_is_written_to(checkpoint, hub):
    push_encoder(checkpoint, "me/rhine", private=True, revision="v2")
    assert hub.calls == ["create_repo", "create_branch v2", "upload_folder me/rhine v2"]
    assert hub.public == {"me/rhine": False}


def test_a_repository_that_exists_gets_a_commit(checkpoint, hub):
    hub.public["me/rhine"] = True
    push_encoder(checkpoint, "me/rhine")
    assert hub.calls[-1] == "upload_folder me/rhine None"


def test_a_private_encoder_does_not_go_into_a_public_repository(checkpoint, hub):
    """The hub would take it, and leave the repository as public as it is."""
    hub.public["me/rhine"] = True
    with pytest.raises(InputError, match="exists already and is public, and --private was asked for"):
        push_encoder(checkpoint, "me/rhine", private=True)
    assert hub.sent == {}


def test_without_a_token_nothing_is_asked_of_the_hub(checkpoint, hub):
    hub.token = None
    with pytest.raises(InputError, match=r"no token .* run: hf auth login, or set HF_TOKEN"):
        push_encoder(checkpoint, "me/rhine")
    assert hub.calls == []


@pytest.mark.parametrize(
    "error",
    [
        HfHubHTTPError("403 Forbidden: not yours", response=SimpleNamespace(headers={}, request=None)),  # type: ignore[arg-type]
        HFValidationError("Repo id must be in the form 'namespace/repo_name'"),
        ConnectionError("no route"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(checkpoint, hub, error):
    hub.fails = error
    with pytest.raises(InputError, match=r"me/rhine cannot be written to on the hub: (403|Repo id|no route)"):
        push_encoder(checkpoint, "me/rhine")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("modules.json", "is not a checkpoint: it has no modules.json"),
        ("README.md", "has no model card"),
        ("model.safetensors", "is a pickle"),
        ("2_Dense/model.safetensors", "is not a model that can be loaded"),
        ("tokenizer.json", "tokenizer"),
    ],
)
def test_an_incomplete_folder_is_not_sent(checkpoint, hub, missing, message):
    (checkpoint / missing).unlink()
    with pytest.raises(InputError, match=message):
        push_encoder(checkpoint, "me/rhine")
    assert hub.calls == []


def test_the_command_says_where_it_went(checkpoint, hub, monkeypatch, capsys):
    command = ["encoder", "push", "--checkpoint", str(checkpoint), "--to", "me/rhine", "--private", "--revision", "v2"]
    monkeypatch.setattr(sys, "argv", ["hybrid-ir", *command])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    said = capsys.readouterr().out
    assert "https://huggingface.co/me/rhine/commit/abc" in said
    assert "12 files" in said
    assert json.loads(hub.sent["modules.json"])[2]["type"] == "sentence_transformers.models.Dense"
