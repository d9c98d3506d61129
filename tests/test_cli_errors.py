"""Bad input at the command line: a clear message, exit code 2, no traceback, nothing written, and before Ray starts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import make_group, write_store

from hybrid_ir.cli import app as cli

TRAIN = ("train", "encoder.name=tiny", "batch.size=8")


def tree(root):
    return {p.relative_to(root): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


@pytest.fixture
def work(tmp_path, monkeypatch, tiny_store):
    """The current folder: a store of German, English and Spanish, and sources good and bad."""
    shutil.copytree(tiny_store.path, tmp_path / "store")
    write_store(tmp_path / "english", [make_group(n, ("en",)) for n in range(40)])
    shutil.copytree(tiny_store.path, tmp_path / "truncated")
    part = tmp_path / "truncated" / "train" / "p000" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-50])
    shutil.copytree(tiny_store.path, tmp_path / "torn")
    (tmp_path / "torn" / "train" / "p000" / "part-00000.parquet").unlink()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "bad.jsonl").write_text('{"queries": \n[]\n{"queries": {"en": "?"}}\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "no-rows").mkdir()
    (tmp_path / "bad.yaml").write_text("batch: {alpah: 0.5}\n")
    (tmp_path / "garbage.parquet").write_bytes(b"PAR1 garbage PAR1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(work, monkeypatch, capsys):
    """Runs a command that must be refused; returns what it says."""

    def no_ray(*_, **__):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("hybrid_ir.cluster.ray_session", no_ray)

    def run(*arguments):
        before = tree(work)
        monkeypatch.setattr(sys, "argv", ["hybrid-ir", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        assert left.value.code == 2
        assert out == ""
        assert "Traceback" not in err
        assert tree(work) == before
        return err.replace(f"{work}/", "")  # a path is said in full or as it was typed

    return run


RECORDS = "prepare.sources=[{{kind: records, path: {}}}]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("batch.alpah=0.5",), "error: unknown key 'batch.alpah'; did you mean 'batch.alpha'? (command line)"),
        (("--config", "bad.yaml"), "error: unknown key 'batch.alpah'; did you mean 'batch.alpha'? (bad.yaml)"),
        (("batch.alpha=1.5",), "error: batch.alpha: input should be less than or equal to 1, got 1.5 (command line)"),
        (
            ("--config", "nowhere.yaml"),
            "error: no config file at nowhere.yaml; the repository's tune_configs/ has examples",
        ),
        (("train.steps",), "error: an override must look like train.steps=100, got 'train.steps'"),
    ],
)
@pytest.mark.parametrize("command", ["prepare", "train"])
def test_a_config_that_cannot_be_used(refused, command, arguments, message):
    assert refused(command, *arguments) == message + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("store=nowhere",), "no store at nowhere (it has no manifest.json); run: hybrid-ir prepare store=nowhere"),
        (("store=notes",), "no store at notes (it has no manifest.json); run: hybrid-ir prepare store=notes"),
        (("store=truncated",), "part-00000.parquet is corrupt: it has"),
        (("store=torn",), "part-00000.parquet is missing; prepare the store again"),
        (("batch.languages=[en, sw]",), "batch.languages names 'sw', which the store lacks; it has de, en, es"),
        (
            ("store=english",),
            "the store cannot serve cross_lingual batches of 8; its groups come in en. Set batch.mix.cross_lingual=0",
        ),
        (("batch.languages=[en]",), "the store cannot serve cross_lingual batches of 8"),
        (("batch.size=500",), "batch.size=500 needs at least 1000 groups that share their languages, found 280"),
        (("loss.negatives=triplet",), "loss.negatives=triplet needs groups with hard negatives, and store has none"),
        (("encoder.name=notes",), "'notes' is not a model: it has neither modules.json nor config.json"),
        (("out=notes",), "notes holds something that is not a run, so it is left alone; choose another out=FOLDER"),
    ],
)
def test_a_training_that_cannot_be_served(refused, arguments, message):
    assert message in refused(*TRAIN, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("store=new", RECORDS.format("empty.jsonl")), "source 'records' has no good group; it is empty"),
        (
            ("store=new", RECORDS.format("bad.jsonl")),
            "source 'records' has no good group; all 3 records were rejected: 1 x not valid JSON; "
            "1 x not a JSON object; 1 x no passage",
        ),
        (("store=new", RECORDS.format("nowhere.jsonl")), "no file nowhere.jsonl; found"),
        (("store=new", RECORDS.format("no-rows")), "no .jsonl, .jsonl.gz, .parquet file in no-rows; found nothing"),
        (("store=new", RECORDS.format("garbage.parquet")), "garbage.parquet cannot be read after row 0"),
        (("store=store", RECORDS.format("bad.jsonl")), "all 3 records were rejected"),
        (("store=notes",), "notes holds something that is not a store, so it is left alone"),
        (("store=bad.jsonl",), "bad.jsonl is a file; choose another folder with store=FOLDER"),
        (("store=new", "prepare.sources=[{kind: lareqa, path: nowhere}]"), "no folder nowhere; found"),
        (("store=new", "prepare.sources.0.languages=[en, sw]"), "atlas has no 'sw'; it has ar, "),
    ],
)
def test_sources_that_cannot_be_prepared(refused, arguments, message):
    assert message in refused("prepare", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--path", "nowhere"), "no store at nowhere"),
        (("--path", "store", "--collection", "xquad"), "unknown collection 'xquad'; there are store, xquad-r, mlqa-r"),
        (("--path", "store", "--languages", "en,sw"), "store has no test in 'sw'; it has de, en, es"),
        (("--path", "store", "--split", "dev"), "holds out no 'dev' split"),
        (("--path", "notes", "--collection", "xquad-r"), "no file of the expected names in notes; found mine.txt"),
    ],
)
def test_a_collection_that_cannot_be_measured(refused, arguments, message):
    assert message in refused("evaluate", "--checkpoint", "model", "--out", "measured", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("compact", "--index", "i", "serve.port=8001"),
            "`hybrid-ir index compact` does not read serve.port, only seed and index.*; leave it out",
        ),
        (
            ("--checkpoint", "m", "--passages", "mine.jsonl", "--out", "o", "train.steps=1"),
            "`hybrid-ir index` does not read train.steps, only seed and index.* and encoder.*; leave it out",
        ),
        (
            ("prune", "--index", "i", "--keep", "0"),
            "--keep must be 1 or more, got 0: the current version stays; to have none, remove i",
        ),
        (("--checkpoint", "notes", "--passages", "bad.jsonl", "--out", "o"), "'notes' is not a model: it has neither"),
        (("--checkpoint", "./m", "--passages", "bad.jsonl", "--out", "o"), "'./m' is not a model: there is no such"),
    ],
)
def test_an_index_command_that_cannot_do_what_is_typed(refused, arguments, message):
    assert refused("index", *arguments).startswith(f"error: {message}")


def test_what_is_no_encoder_is_not_encoded_with(refused):
    said = refused("encode", "--checkpoint", "notes", "--passages", "bad.jsonl", "--out", "o")
    assert said.startswith("error: 'notes' is not a model")
    said = refused("encode", "--checkpoint", "m", "--passages", "bad.jsonl", "--out", "o", "serve.port=1")
    assert said.startswith("error: `hybrid-ir encode` does not read serve.port")


def test_malformed_json_lines_are_counted_and_their_place_is_told(work, monkeypatch, capsys):
    good = [json.dumps({"queries": {"en": f"{n}?"}, "passages": {"en": f"{n}."}}) for n in range(10)]
    (work / "mine.jsonl").write_text("\n".join([*good, "{"]))
    monkeypatch.setattr(sys, "argv", ["hybrid-ir", "prepare", "store=new", RECORDS.format("mine.jsonl")])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert "1 record rejected; each is in new/rejected/ with its reason" in capsys.readouterr().out
    (line,) = (work / "new" / "rejected" / "records.jsonl").read_text().splitlines()
    assert json.loads(line) == {"where": "mine.jsonl:11", "reason": "not valid JSON", "record": "{"}


def test_an_unknown_command_or_option_is_refused(work, monkeypatch, capsys):
    for arguments in (["trian"], ["train", "--confg", "x"]):
        monkeypatch.setattr(sys, "argv", ["hybrid-ir", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 2
        assert "Traceback" not in capsys.readouterr().err


FULL = "error: the disk is full: {}[Errno 28] No space left on device: 'runs/a/log.jsonl'; free some space, then run the same command\n"  # noqa: E501


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/log.jsonl"), 1, FULL.format("")),
        # What comes from a worker is the text of its traceback.
        (
            RuntimeError(
                "ray::worker\n  File x.py, in save\nOSError: [Errno 28] No space left on device: 'runs/a/log.jsonl'\n"
            ),
            1,
            FULL.format("OSError: "),
        ),
    ],
)
def test_what_breaks_off_a_preparation_is_one_sentence_and_leaves_nothing(error, code, said, work, monkeypatch, capsys):
    def break_off(*_, **__):
        raise error

    before = tree(work)
    monkeypatch.setattr("hybrid_ir.data.prepare._write", break_off)
    monkeypatch.setattr(sys, "argv", ["hybrid-ir", "prepare", "store=new"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == code
    assert capsys.readouterr().err == said
    assert tree(work) == before


def test_help_imports_nothing_heavy():
    code = """
import sys
from hybrid_ir.cli.app import app, main
for name in ["", *(c.name or c.callback.__name__ for c in app.registered_commands)]:
    sys.argv = ["hybrid-ir", *([name] if name else []), "--help"]
    try:
        main()
    except SystemExit as left:
        assert left.code == 0, left.code
heavy = {"torch", "ray", "transformers", "datasets", "pyarrow", "numpy", "babel"} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("prepare", "train", "evaluate", "compare"):
        assert f"Usage: hybrid-ir {command} " in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "hello", "--prefer", "de"], "--prefer takes NAME=VALUE with a number, comma-separated; got 'de'"),
        (["search", "hello", "--quotas", "de=1.5"], "--quotas takes NAME=VALUE with a whole number"),
        (["search", "hello", "--quotas", "de=1,de=2"], "--quotas names 'de' twice"),
        (["search", "hello", "--url", "http://127.0.0.1:9"], "no service answers at http://127.0.0.1:9"),
        (
            ["index", "--checkpoint", "x", "--passages", "/nowhere", "--out", "o"],
            "no passages at /nowhere; give .jsonl",
        ),
    ],
)
def test_what_is_not_there_is_one_sentence_before_anything_starts(words, said, tmp_path):
    command = [sys.executable, "-m", "hybrid_ir.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}")
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())
