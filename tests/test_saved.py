"""Checkpoints that a run keeps: cut off, truncated, changed or gone ones are refused, and the one before is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid_ir.storage import open_filesystem, put
from hybrid_ir.training.ray_train.saved import (
    SEAL,
    check_format,
    keep_only,
    newest_whole,
    next_start,
    remove_all,
    seal,
    sealed_in,
)
from hybrid_ir.types import InputError


@pytest.fixture(params=["folder", "s3"])
def out(request, tmp_path) -> str:
    return (
        str(tmp_path / "run") if request.param == "folder" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    )


def save(out: str, scratch: Path, start: str, done: int) -> None:
    """As the worker and Ray do: made and sealed in one place, then copied."""
    made = scratch / f"made-{start}-{done}"
    (made / "encoder").mkdir(parents=True)
    (made / "encoder" / "model.safetensors").write_bytes(f"weights after {done} steps".encode() * 100)
    (made / "progress.json").write_text(f'{{"done": {done}}}')
    seal(made, done)
    put(made, f"{out}/ray/{start}/checkpoint_{done:03d}")


def write(out: str, name: str, content: bytes) -> None:
    filesystem, inner = open_filesystem(f"{out}/{name}")
    with filesystem.open_output_stream(inner) as stream:
        stream.write(content)


def test_the_newest_is_taken_whichever_start_it_is_of(out, tmp_path):
    said = []
    assert newest_whole(out, said.append) is None
    assert next_start(out) == "0001"
    for start, done in (("0001", 10), ("0001", 20), ("0002", 15)):
        save(out, tmp_path, start, done)
    found = newest_whole(out, said.append)
    assert found is not None
    assert found.done == 20
    assert [each.done for each in sealed_in(out)] == [20, 15, 10]
    assert next_start(out) == "0003"
    assert not said


WEIGHTS = "encoder/model.safetensors"


@pytest.mark.parametrize(
    ("name", "content", "damage"),
    [
        (WEIGHTS, b"weights after 20 steps" * 50, r"encoder/model.safetensors has 1100 bytes, not 2200"),
        (WEIGHTS, b"weights after 99 steps" * 100, r"encoder/model.safetensors differs from its checksum"),
        ("progress.json", None, r"progress.json is missing"),
    ],
)
def test_a_changed_one_is_refused_with_a_warning_and_the_one_before_is_taken(out, tmp_path, name, content, damage):
    for done in (10, 20):
        save(out, tmp_path, "0001", done)
    at = f"ray/0001/checkpoint_020/{name}"
    if content is None:
        filesystem, inner = open_filesystem(f"{out}/{at}")
        filesystem.delete_file(inner)
    else:
        write(out, at, content)
    said: list[str] = []
    found = newest_whole(out, said.append)
    assert found is not None
    assert found.done == 10
    assert said == [f"the checkpoint after step 20 is damaged ({damage}), so the one before it is taken"]


@pytest.mark.parametrize("sealed", [None, b'{"done": 20, "fi'], ids=["before the seal", "in the seal"])
def test_one_that_a_kill_cut_off_is_not_taken(out, tmp_path, sealed):
    save(out, tmp_path, "0001", 10)
    write_folder = "ray/0001/checkpoint_020"
    if "://" not in out:
        (Path(out) / write_folder / "encoder").mkdir(parents=True)
    write(out, f"{write_folder}/{WEIGHTS}", b"half of it")
    if sealed is not None:
        write(out, f"{write_folder}/{SEAL}", sealed)
    found = newest_whole(out, pytest.fail)
    assert found is not None
    assert found.done == 10
    keep_only(out, [found])
    filesystem, inner = open_filesystem(f"{out}/{write_folder}")
    assert not filesystem.get_file_info(f"{inner}/{WEIGHTS}").is_file, "what cannot be gone on from is removed"


def test_the_others_are_removed_and_all_of_them_once_the_run_is_finished(out, tmp_path):
    for start, done in (("0001", 10), ("0001", 20), ("0002", 30), ("0003", 40)):
        save(out, tmp_path, start, done)
    keep_only(out, [each for each in sealed_in(out) if each.done in (20, 40)])
    assert [each.done for each in sealed_in(out)] == [40, 20]
    remove_all(out)
    assert sealed_in(out) == []
    remove_all(out)


def test_those_of_the_first_version_are_not_taken_and_not_removed(tmp_path):
    out = tmp_path / "run"
    (out / "ray" / "train" / "checkpoint_1").mkdir(parents=True)
    with pytest.raises(InputError, match=r"was left by version 0\.1, whose checkpoints this version does not read"):
        check_format(str(out))
    assert (out / "ray" / "train" / "checkpoint_1").is_dir()
