"""Files at URIs: against an S3 server of the tests' own, and what the stages make of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_store import groups

from hybrid_ir.storage import fetch, open_filesystem, put, written
from hybrid_ir.types import InputError, Interrupted

COMMAND = [sys.executable, "-m", "hybrid_ir.cli"]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """URI of a bucket of a local server; the environment leads S3 clients of this and of started processes to it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


def names(uri: str) -> set[str]:
    from pyarrow import fs

    filesystem, inner = open_filesystem(uri)
    infos = filesystem.get_file_info(fs.FileSelector(inner, recursive=True, allow_not_found=True))
    return {i.path.removeprefix(f"{inner}/") for i in infos if i.type == fs.FileType.File}


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


# The stages


def run(*words: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_records(path: Path) -> None:
    rows = [
        {
            "group_id": group.group_id,
            "document": group.document,
            "queries": dict(group.queries),
            "passages": {x: passage.text for x, passage in group.passages.items()},
        }
        for group in groups()
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.mark.slow
def test_prepare_train_evaluate_and_index_from_bucket_to_bucket(bucket, tmp_path):
    (tmp_path / "data").mkdir()
    write_records(tmp_path / "data" / "groups.jsonl")
    put(tmp_path / "data", f"{bucket}/data")
    settings = [
        f"store={bucket}/store", "encoder.vocabulary=600", "encoder.max_tokens=32", "batch.size=16", "train.steps=20",
        "train.evaluate_every=10", "train.feed=in_process", "train.cpus_per_worker=0.8", "train.threads_per_worker=1",
        "evaluate.bootstrap_rounds=0",
    ]  # fmt: skip
    sources = f"prepare.sources=[{{kind: records, path: '{bucket}/data/groups.jsonl'}}]"
    run("prepare", sources, *settings, "prepare.validation_fraction=0.05", "prepare.test_fraction=0.1")
    out = run("train", f"out={bucket}/run", *settings)
    assert f"run written to {bucket}/run" in out
    assert {"metrics.json", "log.jsonl", "checkpoint/modules.json", "manifest.json"} <= names(f"{bucket}/run")
    run("evaluate", "--checkpoint", f"{bucket}/run/checkpoint", "--path", f"{bucket}/store", "--out", f"{bucket}/test",
        "evaluate.bootstrap_rounds=0")  # fmt: skip
    measures = json.loads((Path(fetch(f"{bucket}/test")) / "metrics.json").read_text())
    assert 0 <= measures["AP_multi"] <= 1

    run(
        "index", "--checkpoint", f"{bucket}/run/checkpoint", "--passages", f"{bucket}/store", "--out", f"{bucket}/index"
    )
    assert "is whole" in run("index", "verify", "--index", f"{bucket}/index")
