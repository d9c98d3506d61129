"""Files at URIs: against an S3 server of the tests' own, and what the stages make of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoints import make_preset
from conftest import make_group, write_store
from indices import sample_passages, write_served_index

from hybrid_ir import cache as cache_module, storage
from hybrid_ir.cli import app as cli
from hybrid_ir.data.inputs import Input
from hybrid_ir.data.prepare import prepare
from hybrid_ir.data.store import open_store
from hybrid_ir.index.folder import check_files, encoder_folder, read_manifest
from hybrid_ir.index.shard import open_shard
from hybrid_ir.storage import fetch, open_filesystem, put, replace_folder, written
from hybrid_ir.types import InputError, Interrupted

COMMAND = [sys.executable, "-m", "hybrid_ir.cli"]


def names(uri: str) -> set[str]:
    from pyarrow import fs

    filesystem, inner = open_filesystem(uri)
    infos = filesystem.get_file_info(fs.FileSelector(inner, recursive=True, allow_not_found=True))
    return {i.path.removeprefix(f"{inner}/") for i in infos if i.type == fs.FileType.File}


def put_text(uri: str, text: str) -> None:
    filesystem, inner = open_filesystem(uri)
    with filesystem.open_output_stream(inner) as stream:
        stream.write(text.encode())


def test_a_plain_path_is_itself(tmp_path):
    assert fetch(str(tmp_path / "a")) == str(tmp_path / "a")
    with written(str(tmp_path / "b")) as folder:
        assert folder == tmp_path / "b"


@pytest.mark.parametrize("scheme", ["s3", "file"])
def test_what_is_written_to_a_uri_is_there_and_comes_back(request, tmp_path, scheme):
    uri = f"{request.getfixturevalue('bucket')}/round" if scheme == "s3" else f"file://{tmp_path}/round"
    with written(uri) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a.txt").write_text("one")
        (folder / "manifest.json").write_text("{}")
    assert names(uri) == {"deep/a.txt", "manifest.json"}
    assert not folder.exists()
    copy = Path(fetch(uri))
    assert copy.name == "round"
    assert (copy / "deep" / "a.txt").read_text() == "one"
    assert fetch(uri) == str(copy), "nothing changed, so nothing is fetched again"
    assert Path(fetch(f"{uri}/deep/a.txt")).read_text() == "one"

    with written(uri) as folder:
        assert (folder / "deep" / "a.txt").read_text() == "one"
        (folder / "deep" / "a.txt").write_text("two!")
        (folder / "manifest.json").unlink()
    assert names(uri) == {"deep/a.txt"}
    assert (Path(fetch(uri)) / "deep" / "a.txt").read_text() == "two!"


def test_a_key_that_would_leave_the_copy_is_refused(bucket, tmp_path, monkeypatch):
    """In a bucket `..` is a name like any other."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = {"model/config.json": (2, 0), "../../../stolen": (2, 0)}
    put_text(f"{bucket}/model/config.json", "{}")
    monkeypatch.setattr("hybrid_ir.storage._files", lambda *_: files)
    with pytest.raises(InputError, match=r"'\.\./\.\./\.\./stolen', which would lie outside of its copy"):
        fetch(f"{bucket}/")
    assert not list(tmp_path.rglob("stolen"))


def test_what_others_write_is_left_alone(bucket, tmp_path):
    (tmp_path / "state").write_text("theirs")
    put(tmp_path, f"{bucket}/shared/ray")
    with written(f"{bucket}/shared", leave=("ray", ".last")) as folder:
        assert list(folder.iterdir()) == []
        for name in ("ray", ".last"):
            (folder / name).mkdir()
            (folder / name / "mine").touch()
        (folder / "log.jsonl").touch()
    assert names(f"{bucket}/shared") == {"ray/state", "log.jsonl"}


@pytest.mark.parametrize("error", [InputError, Interrupted])
def test_what_was_made_before_an_error_is_put_back_and_the_message_names_the_uri(bucket, error):
    uri = f"{bucket}/failed-{error.__name__}"
    with pytest.raises(error, match=f"^saved in {uri}/deep$"), written(uri) as folder:  # noqa: PT012
        (folder / "saved").touch()
        raise error(f"saved in {folder}/deep")
    assert names(uri) == {"saved"}


def test_what_cannot_be_read_or_written_is_said_before_anything_is_done(bucket):
    with pytest.raises(InputError, match=r"there is nothing at s3://bucket/none"):
        fetch(f"{bucket}/none")
    with pytest.raises(InputError, match=r"cannot write to s3://other/out: .*other"), written("s3://other/out"):
        raise AssertionError("the block was entered")
    with pytest.raises(InputError, match=r"cannot open s4://bucket/a .*use a folder, or a URI"):
        fetch("s4://bucket/a")


def test_nothing_is_lost_when_the_place_is_gone_at_the_end(bucket):
    import boto3

    boto3.client("s3").create_bucket(Bucket="gone")
    said = r"cannot write to s3://gone/out: .*what was to go there is in "
    with pytest.raises(InputError, match=said) as caught, written("s3://gone/out") as folder:  # noqa: PT012
        (folder / "result").write_text("hours of work")
        client = boto3.client("s3")
        for entry in client.list_objects_v2(Bucket="gone").get("Contents", []):
            client.delete_object(Bucket="gone", Key=entry["Key"])
        client.delete_bucket(Bucket="gone")
    left = Path(str(caught.value).rpartition(" is in ")[2])
    assert (left / "result").read_text() == "hours of work"


def test_what_another_command_has_changed_meanwhile_is_left_as_that_has_it(bucket):
    """Two at once, as two `index add` of one index: the one that ends last is refused, and its work is kept."""
    uri = f"{bucket}/contested"
    put_text(f"{uri}/manifest.json", '{"version": 1}')
    said = r"s3://bucket/contested was changed by another command meanwhile, .* run this one again; what was to go"
    with pytest.raises(InputError, match=said) as caught, written(uri) as mine:  # noqa: PT012
        with written(uri) as other:
            (other / "manifest.json").write_text('{"version": 2}')
            (other / "of-2").touch()
        (mine / "manifest.json").write_text('{"version": "mine"}')
        (mine / "of-mine").touch()
    copy = Path(fetch(uri))
    assert (copy / "manifest.json").read_text() == '{"version": 2}'
    assert names(uri) == {"manifest.json", "of-2"}
    assert (Path(str(caught.value).rpartition(" is in ")[2]) / "of-mine").is_file()


def test_a_manifest_that_one_command_writes_in_steps_is_its_own(bucket):
    uri = f"{bucket}/steps"
    with storage.written_in_steps(uri) as (folder, put_back):
        for step in range(3):
            (folder / "manifest.json").write_text(str(step))
            put_back()
    assert names(uri) == {"manifest.json"}


def test_a_folder_is_replaced_in_one_step(tmp_path):
    """A reader that lists the folder without a pause never finds it absent, or half of it."""
    place, stop = tmp_path / "place", threading.Event()
    place.mkdir()
    (place / "0").touch()
    seen = []

    def watch():
        while not stop.is_set():
            try:
                seen.append(len(os.listdir(place)))
            except OSError:
                seen.append(None)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for n in range(200):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / str(n + 1)).touch()
        replace_folder(tmp_path / "new", place)
        assert [p.name for p in place.iterdir()] == [str(n + 1)]
    stop.set()
    watcher.join()
    assert None not in seen
    assert [p.name for p in tmp_path.iterdir()] == ["place"]


def test_a_folder_is_replaced_where_names_cannot_be_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr("hybrid_ir.storage._exchange", lambda a, b: False)
    for name in ("place", "new", "place.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "new", tmp_path / "place")
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["place", "place/new"]


# The stages


def test_an_evaluation_reads_a_checkpoint_and_a_store_and_writes_measures_at_uris(bucket, tmp_path, capsys):
    make_preset(tmp_path / "checkpoint")
    put(tmp_path / "checkpoint", f"{bucket}/run/checkpoint")
    write_store(f"{bucket}/tiny", [make_group(n) for n in range(60)])
    words = ["--checkpoint", f"{bucket}/run/checkpoint", "--path", f"{bucket}/tiny", "--out", f"{bucket}/test"]
    cli.app(["evaluate", *words, "evaluate.bootstrap_rounds=0"], standalone_mode=False)
    assert f"measures written to {bucket}/test (report: {bucket}/test/report.html)" in capsys.readouterr().out
    assert names(f"{bucket}/test") == {"metrics.json", "per_query.parquet", "report.html"}
    measures = json.loads((Path(fetch(f"{bucket}/test")) / "metrics.json").read_text())
    assert measures["checkpoint"] == f"{bucket}/run/checkpoint"
    assert 0 <= measures["AP_multi"] <= 1


def test_a_store_at_a_uri_is_whole_until_a_new_one_is_complete(bucket):
    """A typo in the path of a source, or a stop at any moment, leaves the old store as it was."""
    uri = f"{bucket}/replaced"
    groups = [make_group(n) for n in range(60)]
    old = write_store(uri, groups)
    files = names(uri)

    def records():
        yield from groups[:50]
        assert names(uri) >= files, "the old store is there while the new one is made"
        assert open_store(uri).take(0, np.arange(3), "q_en")
        raise InputError("no file mine.jsonl")

    with pytest.raises(InputError, match="no file"):
        prepare([Input("tiny", records)], uri, seed=1, validation_fraction=0, test_fraction=0.2, settings={})
    assert names(uri) == files
    assert open_store(uri).manifest == old

    put_text(f"{uri}/store-0000/train/part", "left by one that was killed")
    new = write_store(uri, groups, seed=1)
    assert open_store(uri).manifest == new
    assert new["content_hash"] != old["content_hash"]
    assert {name.partition("/")[0] for name in names(uri)} == {"manifest.json", new["folder"]}
    assert open_store(uri).collection("test").queries


def test_storage_that_is_lost_while_a_store_is_prepared_is_said_and_the_same_command_goes_on(bucket):
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="lost")
    groups = [make_group(n) for n in range(60)]

    def records():
        yield from groups
        for entry in client.list_objects_v2(Bucket="lost").get("Contents", []):
            client.delete_object(Bucket="lost", Key=entry["Key"])
        client.delete_bucket(Bucket="lost")

    with pytest.raises(InputError, match=r"cannot write the store at s3://lost/a \(.*\); .*the same command makes"):
        prepare([Input("tiny", records)], "s3://lost/a", seed=1, validation_fraction=0, test_fraction=0.2, settings={})
    client.create_bucket(Bucket="lost")
    assert write_store("s3://lost/a", groups) == open_store("s3://lost/a").manifest


def test_a_store_at_a_uri_of_the_older_layout_is_replaced(bucket, tmp_path):
    write_store(tmp_path / "old", [make_group(n) for n in range(60)])
    put(tmp_path / "old", f"{bucket}/older")
    assert open_store(f"{bucket}/older").take(0, np.arange(3), "q_en")
    new = write_store(f"{bucket}/older", [make_group(n) for n in range(60)])
    assert {name.partition("/")[0] for name in names(f"{bucket}/older")} == {"manifest.json", new["folder"]}


def test_an_index_at_a_uri_is_checked_and_opened(bucket, tmp_path):
    write_served_index(tmp_path / "index", sample_passages())
    put(tmp_path / "index", f"{bucket}/index")
    whole = read_manifest(str(tmp_path / "index"))
    assert read_manifest(f"{bucket}/index") == whole
    shard = open_shard(f"{bucket}/index", whole, 0)
    assert shard.read([0]) == open_shard(tmp_path / "index", whole, 0).read([0])
    put_text(f"{bucket}/index/shards/{whole.shards[1].name}/ids.npy", "damaged")
    with pytest.raises(InputError, match=r"ids\.npy is truncated or corrupt"):
        open_shard(f"{bucket}/index", whole, 1)
    with pytest.raises(InputError, match=r"ids\.npy is truncated or corrupt"):
        check_files(f"{bucket}/index", whole.shards[1].files, checksums=False)


def test_of_an_index_at_a_uri_only_what_is_opened_is_fetched_and_once(bucket, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    write_served_index(tmp_path / "index", sample_passages(), codec="IVF4,SQ8")
    put(tmp_path / "index", f"{bucket}/parts")

    def fetched():
        return sorted(path.name for path in cache.rglob("*") if path.is_file())

    manifest = read_manifest(f"{bucket}/parts")
    check_files(f"{bucket}/parts", manifest.shards[1].files, checksums=False)
    assert fetched() == []
    open_shard(f"{bucket}/parts", manifest, 1)
    opened = ["ids.npy", "lists-001.npy", "passages.arrow", "vectors.f16.npy", "vectors.faiss"]
    assert fetched() == opened
    # Another version, written beside it, has the same shard: nothing of it is fetched again.
    before = {path for path in cache.rglob("*") if path.is_file()}
    (tmp_path / "index" / "rejected-002.jsonl").write_text("{}")
    (tmp_path / "index" / "shards" / "002").mkdir()
    (tmp_path / "index" / "shards" / "002" / "ids.npy").write_text("more")
    put(tmp_path / "index", f"{bucket}/parts")
    open_shard(f"{bucket}/parts", manifest, 1)
    assert {path for path in cache.rglob("*") if path.is_file()} == before
    assert Path(encoder_folder(f"{bucket}/parts", manifest)).name == "encoder"
    assert "model.safetensors" in fetched()


def test_what_was_used_longest_ago_leaves_the_cache(bucket, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(cache_module, "CACHE_KEEPS_S", -1)
    for name in "abc":
        put_text(f"{bucket}/evicted/{name}", name * 1000)
    copies = {name: Path(fetch(f"{bucket}/evicted/{name}")) for name in "ab"}
    for age, name in enumerate("ba"):  # a was used last
        os.utime(copies[name].parent, (age, age))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2000))
    copies["c"] = Path(fetch(f"{bucket}/evicted/c"))  # 3000 bytes of 5000; half of them may be the cache's
    assert {name: copy.exists() for name, copy in copies.items()} == {"a": True, "b": False, "c": True}
    assert Path(fetch(f"{bucket}/evicted/b")).read_text() == "b" * 1000


@pytest.mark.parametrize("command", ["compare", "study"])
def test_what_reads_its_own_files_wants_a_folder(bucket, command):
    words = {"compare": ["--mixes", "hybrid", f"out={bucket}/x"], "study": ["mixing_ratio", "--out", f"{bucket}/x"]}
    done = subprocess.run([*COMMAND, command, *words[command]], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert f"needs a folder, not {bucket}/x" in done.stderr
