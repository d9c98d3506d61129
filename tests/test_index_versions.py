"""Versions of an index side by side: what is added, what is killed, what goes on being served, what is pruned."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import make_preset
from indices import sample_passages, write_jsonl
from without_ray import without_ray

from hybrid_ir.config.experiment import Index
from hybrid_ir.index import recall as recall_module
from hybrid_ir.index.build import build_index, verify_index
from hybrid_ir.index.changes import change as change_module
from hybrid_ir.index.changes.change import add_passages
from hybrid_ir.index.changes.versions import prune_versions
from hybrid_ir.index.folder import checksum_of, read_manifest
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.shard import open_shard
from hybrid_ir.types import InputError

SETTINGS = Index(shards=2)
POINTS = 4
"""Moments at which a build is killed, and as many for an addition; `broken_builds.py` takes any number."""
MORE = [IndexedPassage(f"new/{n}", f"Mto namba {n} ni mrefu.", "sw", {"page": n}) for n in range(20)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with an encoder, passages (twenty of them a text too long for it), an index of them, and more to add."""
    root = tmp_path_factory.mktemp("versions")
    make_preset(root / "encoder")
    long = [IndexedPassage(f"long/{n}", "river " * 100 + str(n), "en") for n in range(20)]
    write_jsonl(root / "first.jsonl", [*sample_passages(60), *long])
    write_jsonl(root / "more.jsonl", MORE)
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        build_index(str(root / "encoder"), [str(root / "first.jsonl")], str(root / "index"), SETTINGS, seed=0)
    return root


@pytest.fixture
def index(built, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    shutil.copytree(built / "index", tmp_path / "index")
    return tmp_path / "index"


def add(index, built):
    return add_passages(str(index), [str(built / "more.jsonl")], SETTINGS, seed=0)


def files(index):
    return {p.relative_to(index).as_posix(): p.read_bytes() for p in index.rglob("*") if p.is_file()}


def test_texts_that_were_cut_are_counted_by_language(index, built):
    assert read_manifest(index).cut == {"en": 20}
    assert add(index, built).cut["en"] == 20


def test_an_addition_changes_no_file_of_the_version_before(index, built):
    before, old = files(index), read_manifest(index)
    new = add(index, built)
    after = files(index)
    assert {name for name in before if after.get(name) != before[name]} == {"manifest.json"}
    assert new == read_manifest(index)
    assert new.parent == old.index_version
    assert [shard.rows for shard in new.shards] == [40, 40, 20]
    # Both are there to be opened, and to be served.
    assert read_manifest(index, old.index_version) == old
    for manifest in (old, new):
        shards = [open_shard(index, manifest, n) for n in range(len(manifest.shards))]
        assert sum(shard.rows for shard in shards) == manifest.rows
    assert verify_index(str(index), SETTINGS, seed=0).rows == 100


def test_a_release_is_a_folder_and_a_version(index, built):
    from hybrid_ir.serving.local_release import LocalRelease

    old = read_manifest(index)
    add(index, built)
    release = LocalRelease(str(index), old.index_version)
    assert release.key == f"{index}@{old.index_version}"
    assert release.manifest.rows == 80
    release.close()
    with pytest.raises(InputError, match=r"has no version beef any more, the current one is"):
        LocalRelease(str(index), "beef")


@pytest.mark.parametrize("moment", ["before the shard", "before the manifest", "after the manifest"])
def test_an_addition_that_fails_and_is_run_again_adds_everything_once(index, built, monkeypatch, moment):
    def fail(*_, **__):
        raise KeyboardInterrupt

    module, name = {
        "before the shard": (change_module, "write_shards"),
        "before the manifest": (recall_module, "publish"),
        "after the manifest": (change_module, "clear"),
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(KeyboardInterrupt):
            add(index, built)
    verify_index(str(index), SETTINGS, seed=0)
    assert read_manifest(index).rows == (100 if moment == "after the manifest" else 80)
    assert add(index, built).languages["sw"] == 20
    assert verify_index(str(index), SETTINGS, seed=0).rows == 100
    assert not (index / ".build").exists()
    with pytest.raises(InputError, match="20 x duplicate doc_id"):
        add(index, built)


STEPS_OF_CLEARING = ["shutil.rmtree", "Path.unlink", "os.replace", "Path.rmdir", "Path.unlink of the marker"]


@pytest.mark.parametrize("step", STEPS_OF_CLEARING)
@pytest.mark.parametrize("what", ["build", "addition"])
def test_what_is_killed_while_it_clears_up_is_finished_and_says_so(index, built, tmp_path, monkeypatch, step, what):
    """Whichever step is the last before the end, the same command finds the index whole, and clears up the rest."""
    out = tmp_path / "out" if what == "build" else index

    def run():
        if what == "addition":
            return add(index, built)
        return build_index(str(built / "encoder"), [str(built / "first.jsonl")], str(out), SETTINGS, seed=0)

    def killed(*_, **__):
        raise KeyboardInterrupt

    publish, unlink = recall_module.publish, Path.unlink

    def published(*arguments):
        """From here on, a step fails."""
        done = publish(*arguments)
        name = step.removesuffix(" of the marker")
        if step == "Path.unlink of the marker":
            patch.setattr(Path, "unlink", lambda path, **more: killed() if path.name == ".build.json" else unlink(path))
        else:
            patch.setattr(f"pathlib.{name}" if name.startswith("Path") else name, killed)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall_module, "publish", published)
        with pytest.raises(KeyboardInterrupt):
            run()
    rows = read_manifest(out).rows
    assert rows == (80 if what == "build" else 100)
    assert run().rows == rows
    assert not list(out.glob(".build*"))
    with pytest.raises(InputError, match="is an index already" if what == "build" else "20 x duplicate doc_id"):
        run()


def test_an_empty_folder_that_an_earlier_version_left_is_removed(index, built):
    (index / ".build").mkdir()
    with pytest.raises(InputError, match="is an index already"):
        build_index(str(built / "encoder"), [str(built / "first.jsonl")], str(index), SETTINGS, seed=0)
    assert not (index / ".build").exists()


def test_two_at_once_on_one_index_are_refused_and_a_killed_one_holds_nothing_up(index, built, tmp_path):
    """The first holds the index in a process of its own; it ends by KILL, as one that runs out of memory does."""
    hold = (
        "import sys, time\nfrom pathlib import Path\nfrom hybrid_ir.index.writing import alone\n"
        "with alone(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    before = files(index)
    first = subprocess.Popen([sys.executable, "-c", hold, str(index)], stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        for second in (
            lambda: add(index, built),
            lambda: prune_versions(index, 1),
            lambda: build_index(str(built / "encoder"), [str(built / "first.jsonl")], str(index), SETTINGS, seed=0),
        ):
            with pytest.raises(InputError, match=r"another process is building .*; wait until it has ended, then run"):
                second()
        assert files(index) == before
    finally:
        first.kill()
        first.wait()
    assert add(index, built).rows == 100


def test_a_build_that_is_refused_leaves_no_folder(built, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    with pytest.raises(InputError, match="is not a model"):
        build_index(str(tmp_path), [str(built / "first.jsonl")], str(tmp_path / "a" / "b"), SETTINGS, seed=0)
    assert not (tmp_path / "a").exists()


def test_pruning_leaves_what_is_kept_whole(index, built, tmp_path):
    first = read_manifest(index)
    second = add(index, built)
    (index / "shards" / "007").mkdir()  # of an addition that was given up
    third = add_passages(
        str(index), [write_jsonl(tmp_path / "x.jsonl", [IndexedPassage("x", "x", "en")])], SETTINGS, seed=0
    )
    assert prune_versions(index, 2) == [first.index_version]
    assert {path.name for path in (index / "shards").iterdir()} == {"000", "001", "002", "003"}
    assert read_manifest(index, second.index_version) == second
    with pytest.raises(InputError, match="has no version"):
        read_manifest(index, first.index_version)
    assert prune_versions(index, 1) == [second.index_version]
    assert verify_index(str(index), SETTINGS, seed=0).index_version == third.index_version


def test_an_index_of_format_1_is_read_and_added_to(index, built):
    """What an index of the first format lacks: its manifest under its version, and three fields."""
    content = json.loads((index / "manifest.json").read_text())
    content = {k: v for k, v in content.items() if k not in ("parent", "cut", "checksum")} | {"format": 1}
    (index / "manifest.json").write_text(json.dumps(content))
    shutil.rmtree(index / "versions")
    old = read_manifest(index)
    assert add(index, built).parent == old.index_version
    assert read_manifest(index, old.index_version) == old


def test_a_manifest_that_was_changed_is_refused(index):
    content = json.loads((index / "manifest.json").read_text())
    assert content["checksum"] == checksum_of(content)
    content["languages"]["en"] += 1
    (index / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="its checksum is not that of its content"):
        read_manifest(index)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_what_was_killed_or_had_no_space_goes_on_to_the_same_bytes(built, tmp_path, seed):
    for name in ("encoder", "first.jsonl", "more.jsonl"):
        (tmp_path / name).symlink_to(built / name)
    script = Path(__file__).with_name("broken_builds.py")
    paths = os.pathsep.join([str(script.parent), str(script.parents[1])])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(seed), str(POINTS)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same files") == 2 * (POINTS + 3)
    assert "OSError" in done.stdout, "no limit was small enough to be felt"
