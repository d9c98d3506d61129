"""What tests share: an environment without network, and tiny groups in three languages with a store made of them."""

from __future__ import annotations

import os

# Before anything imports ray or a hub client: both read these when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("RAY_AUTH_MODE", "token")
# Tests run two at a time, each with processes of its own: threads that spin for a core would only take it from the
# others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import urllib.request
from pathlib import Path

import pytest

from hybrid_ir.data.inputs import Input
from hybrid_ir.data.prepare import prepare
from hybrid_ir.data.store import Store, open_store
from hybrid_ir.types import Group, Passage

LANGUAGES = ("de", "en", "es")


def make_group(number: int, languages=LANGUAGES, *, per_document: int = 4, negatives: bool = False) -> Group:
    """Question `number`; `per_document` neighbours share a document. Every text names its language and number."""
    return Group(
        f"g{number}",
        f"d{number // per_document}",
        {x: f"what is {number} in {x}?" for x in languages},
        {x: (Passage(f"{x}/{number}", f"{number} in {x} is this."),) for x in languages},
        {x: (Passage(f"{x}/not-{number}", f"{number} in {x} is not this."),) for x in languages} if negatives else {},
    )


def write_store(path: Path | str, groups, *, seed=0, validation_fraction=0.1, test_fraction=0.2, **more) -> dict:
    """Prepare a store of one source named "tiny"; returns the manifest."""
    groups = list(groups)
    return prepare(
        [Input("tiny", lambda: iter(groups), **more)],
        str(path),
        seed=seed,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        settings={},
    )


@pytest.fixture(scope="session")
def tiny_groups() -> list[Group]:
    """400 groups in German, English and Spanish, four to a document."""
    return [make_group(n) for n in range(400)]


@pytest.fixture(scope="session")
def tiny_store(tiny_groups, tmp_path_factory) -> Store:
    """A store of `tiny_groups`: 70 of 100 documents to train on, 10 for validation, 20 for the test. Read only."""
    path = tmp_path_factory.mktemp("tiny") / "store"
    write_store(path, tiny_groups)
    return open_store(str(path))


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
        # Its content outlives the server, in this process.
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST"))
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray of its own on two CPUs, quiet; yields its resources. Shared by the slow tests of a session."""
    from hybrid_ir.cluster.ray_cluster import ray_session

    os.environ.pop("RAY_ADDRESS", None)
    with ray_session(verbose=False, cpus=2) as resources:
        yield resources
