"""Stores and indices of others, and keys of a bucket: no name and no link in them leads out of their folder.

Each test is a claim of docs/security.md.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import write_store
from indices import sample_passages, write_served_index
from without_ray import without_ray

from hybrid_ir.config.experiment import Index
from hybrid_ir.data.store import open_store
from hybrid_ir.index.build import verify_index
from hybrid_ir.index.changes.change import add_passages
from hybrid_ir.index.changes.versions import prune_versions
from hybrid_ir.index.folder import checksum_of, read_manifest
from hybrid_ir.index.passages import read_passages
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.storage import fetch, lies_inside
from hybrid_ir.types import InputError

OUTSIDE = ["../../etc/passwd", "/etc/passwd", "train/../../secret", "..", "", "a//b", "./a", "a\0b"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_groups):
    root = tmp_path_factory.mktemp("foreign")
    write_store(root / "store", tiny_groups)
    write_served_index(root / "index", sample_passages(12))
    return root


@pytest.fixture
def folder(made, tmp_path):
    """Copies of a store and an index, to be broken, and beside them what is not theirs."""
    for name in ("store", "index"):
        shutil.copytree(made / name, tmp_path / name)
    (tmp_path / "secret").write_text("the-secret-of-the-machine")
    return tmp_path


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    if "checksum" in content:  # who makes a manifest makes its checksum too
        content["checksum"] = checksum_of(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_is_none_of_the_folder(tmp_path, name):
    assert not lies_inside(str(tmp_path), name)
    assert not lies_inside("s3://bucket/index", name)


def test_a_link_within_the_folder_stays_in_it(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "out").symlink_to(tmp_path.parent)
    for folder in (str(tmp_path), f"file://{tmp_path}"):
        assert lies_inside(folder, "b")
        assert not lies_inside(folder, "out")
        assert not lies_inside(folder, "out/a")


# Stores


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_store_that_names_a_file_outside_is_refused(folder, name):
    def change(content):
        content["partitions"][0]["files"][0]["path"] = name

    edit(folder / "store" / "manifest.json", change)
    for read in (open_store, lambda path: list(read_passages(path))):
        with pytest.raises(InputError, match="which lies outside of the store; take a store from whom you trust"):
            read(str(folder / "store"))


@pytest.mark.parametrize("change", [{"folder": "../outside"}, {"eval": {"test": "../outside"}}])
def test_a_store_whose_folders_lie_outside_is_refused(folder, change):
    shutil.copytree(folder / "store", folder / "outside")
    edit(folder / "store" / "manifest.json", lambda content: content.update(change))
    with pytest.raises(InputError, match=r"names '\.\./outside', which lies outside of the store"):
        open_store(str(folder / "store"))


def test_a_link_out_of_a_store_is_not_followed(folder):
    part = next((folder / "store" / "train").rglob("*.parquet"))
    shutil.move(part, folder / "outside")
    part.symlink_to(folder / "outside")
    for place in (str(folder / "store"), f"file://{folder}/store"):
        with pytest.raises(InputError, match="lies outside of the store"):
            open_store(place)


def test_a_link_out_of_a_held_out_collection_is_not_followed(folder):
    part = folder / "store" / "eval" / "test" / "queries.parquet"
    shutil.move(part, folder / "outside")
    part.symlink_to(folder / "outside")
    with pytest.raises(InputError, match=r"queries\.parquet is a link out of the store"):
        open_store(str(folder / "store")).collection("test")


# Indices


def reads(folder: Path, monkeypatch):
    """Everything that opens an index."""
    without_ray(monkeypatch)
    index = str(folder / "index")
    (folder / "more.jsonl").write_text('{"doc_id": "new", "text": "b", "language": "en"}\n')
    yield lambda: LocalRelease(index)
    yield lambda: verify_index(index, Index(), seed=0)
    yield lambda: add_passages(index, [str(folder / "more.jsonl")], Index(), seed=0)
    yield lambda: prune_versions(Path(index), 1)
    yield lambda: read_manifest(f"file://{index}")


@pytest.mark.parametrize("name", [name for name in OUTSIDE if "\0" not in name])
@pytest.mark.parametrize("part", ["files", "a shard's files", "a shard", "the version"])
def test_an_index_that_names_a_file_outside_is_refused(folder, name, part, monkeypatch):
    def change(content):
        shard = content["shards"][0]
        match part:
            case "files":
                content["files"][name] = next(iter(content["files"].values()))
            case "a shard's files":
                shard["files"][name] = next(iter(shard["files"].values()))
            case "a shard":
                shard["name"] = name
            case _:
                content["index_version"] = name

    edit(folder / "index" / "manifest.json", change)
    for read in reads(folder, monkeypatch):
        with pytest.raises(InputError, match="which lies outside of the index; take an index from whom you trust"):
            read()
    assert (folder / "secret").read_text() == "the-secret-of-the-machine"


@pytest.mark.parametrize("name", ["encoder/config.json", "encoder", "shards/000/passages.arrow", "shards", "versions"])
def test_a_link_out_of_an_index_is_neither_read_nor_written_nor_emptied(folder, name, monkeypatch):
    shutil.move(folder / "index" / name, folder / "outside")
    (folder / "index" / name).symlink_to(folder / "outside")
    before = sorted(folder.rglob("*"))
    for read in reads(folder, monkeypatch):
        with pytest.raises(InputError, match="lies outside of the index"):
            read()
    assert sorted(path for path in folder.rglob("*") if path.name != "more.jsonl") == before


def test_an_unfinished_addition_that_is_a_link_is_not_emptied(folder, monkeypatch):
    (folder / "outside").mkdir()
    (folder / "outside" / "build.json").write_text(json.dumps({"inputs": [], "base": "another", "space": {"id": ""}}))
    (folder / "index" / ".build").symlink_to(folder / "outside")
    for number, read in enumerate(reads(folder, monkeypatch)):
        if number == 2:
            with pytest.raises(InputError, match=r"\.build is a link, and what is in it would be removed"):
                read()
    assert (folder / "outside" / "build.json").is_file()


def test_a_version_that_is_asked_for_is_a_name_and_no_path(folder):
    shutil.copy(folder / "index" / "manifest.json", folder / "manifest-of-another.json")
    with pytest.raises(InputError, match="has no version"):
        read_manifest(folder / "index", "../../manifest-of-another")


# Buckets


@pytest.mark.parametrize("key", ["model/../../../stolen", "model//{tmp}/stolen"])
def test_a_key_that_would_leave_the_copy_is_refused(bucket, tmp_path, monkeypatch, key):
    """In a bucket `..` is a name like any other, and so is one that begins with a slash."""
    import boto3

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    client = boto3.client("s3")
    client.put_object(Bucket="bucket", Key=(key := key.format(tmp=str(tmp_path)[1:])), Body=b"{}")
    client.put_object(Bucket="bucket", Key="model/config.json", Body=b"{}")
    try:
        with pytest.raises(InputError) as refused:
            fetch(f"{bucket}/model")
    finally:
        client.delete_object(Bucket="bucket", Key=key)
    assert re.search(r"has a file named '.*stolen', which would lie outside of its copy", str(refused.value))
    assert not list(tmp_path.rglob("stolen"))
