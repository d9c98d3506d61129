"""Places that cannot be written to: a build, an addition and a pruning say so, and leave what was there as it was.

Root may write anywhere, so that the tests, if they run as root, are somebody else for as long as they write.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from checkpoints import make_preset
from indices import sample_passages, write_served_index
from without_ray import without_ray

from hybrid_ir.cli import app as cli
from hybrid_ir.config.experiment import Index
from hybrid_ir.index.build import verify_index
from hybrid_ir.index.folder import checksum_of

NOBODY = 65534


@contextmanager
def somebody_else() -> Iterator[None]:
    """Who owns nothing here; whoever runs the tests, if that is not root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture(scope="module")
def shared():
    """A folder that everybody may read, which pytest's own is not: an encoder, passages, and an index."""
    folder = Path(tempfile.mkdtemp(prefix="read-only-", dir="/tmp"))
    make_preset(folder / "encoder")
    write_served_index(folder / "index", sample_passages(12))
    (folder / "more.jsonl").write_text('{"doc_id": "new", "text": "b", "language": "en"}\n')
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(folder)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command of `hybrid-ir index` in this process; returns the exit code and what it printed as errors."""
    without_ray(monkeypatch)
    monkeypatch.setattr("hybrid_ir.cluster.ray_session", lambda *_: nullcontext())
    monkeypatch.setattr("hybrid_ir.cluster.live_nodes", lambda: 1)

    def run(*words: str) -> tuple[object, str]:
        monkeypatch.setattr("sys.argv", ["hybrid-ir", "index", *map(str, words)])
        with somebody_else(), pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, capsys.readouterr().err

    return run


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["{shared}/out", "{shared}/more.jsonl/out", "/proc/out"])
def test_a_build_where_nothing_can_be_written_is_one_sentence(shared, command, place):
    """In a folder of somebody else's, below a file, and in a file system that makes no folders."""
    out, before = place.format(shared=shared), tree(shared)
    code, said = command("build", "--checkpoint", shared / "encoder", "--passages", shared / "more.jsonl", "--out", out)
    assert code == 2
    assert f"cannot write the index at {out} (" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert tree(shared) == before


def test_an_addition_to_an_index_that_is_read_only_is_one_sentence_and_changes_nothing(shared, command):
    before = tree(shared)
    code, said = command("add", "--index", shared / "index", "--passages", shared / "more.jsonl")
    assert_refused(shared, before, code, said)


def test_a_pruning_of_an_index_that_is_read_only_is_one_sentence_and_changes_nothing(shared, command):
    """There is something to prune: a version before the current one, as an addition leaves it."""
    older = json.loads((shared / "index" / "manifest.json").read_text()) | {"index_version": "0" * 16}
    versions = shared / "index" / "versions"
    versions.chmod(0o755)
    (versions / f"{'0' * 16}.json").write_text(json.dumps(older | {"checksum": checksum_of(older)}))
    versions.chmod(0o555)
    before = tree(shared)
    code, said = command("prune", "--index", shared / "index", "--keep", "1")
    assert_refused(shared, before, code, said)


def assert_refused(shared: Path, before: dict[str, bytes], code: object, said: str) -> None:
    assert code == 2, said
    assert f"cannot write the index at {shared / 'index'} ([Errno 13] Permission denied" in said
    assert "Traceback" not in said
    assert tree(shared) == before
    assert verify_index(str(shared / "index"), Index(), seed=0).rows == 12
