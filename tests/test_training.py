"""Training end to end on a small store: what a run leaves, what it refuses, workers that die. Several nodes have
their own file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs
from ray_nodes import environment
from training_runs import OVERRIDES, STEPS, experiment
from training_store import make_store

from hybrid_ir.storage import fetch, open_filesystem
from hybrid_ir.training.ray_train.saved import sealed_in
from hybrid_ir.types import InputError

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "hybrid_ir.cli"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("training") / "store"
    make_store(path)
    return path


def assert_same_ledger(a: Path, b: Path) -> None:
    assert json.loads((a / "ledger.json").read_text()) == json.loads((b / "ledger.json").read_text())


def pgrep(*arguments: str) -> list[str]:
    return subprocess.run(["pgrep", *arguments], capture_output=True, text=True).stdout.split()


@pytest.fixture(scope="module")
def unbroken(store, tmp_path_factory, ray_cluster) -> Path:
    from hybrid_ir.training.run import train

    out = tmp_path_factory.mktemp("runs") / "unbroken"
    train(experiment(store, out), ray_cluster)
    return out


def test_a_run_leaves_a_checkpoint_ledger_measures_log_and_manifest(unbroken):
    ledger = json.loads((unbroken / "ledger.json").read_text())
    for kind in ("monolingual", "cross_lingual"):
        assert ledger["kinds"][kind]["asked"] == pytest.approx(0.5)
        assert abs(ledger["kinds"][kind]["batches"] - STEPS / 2) <= 1
    assert set(ledger["pairs"]["cross_lingual"]) == {
        f"{a}-{b}" for a in ("de", "en", "es") for b in ("de", "en", "es") if a != b
    }
    metrics = json.loads((unbroken / "metrics.json").read_text())
    assert metrics["steps"] == STEPS
    assert 0 <= metrics["validation"]["AP_mono"] <= 1
    manifest = json.loads((unbroken / "manifest.json").read_text())
    assert manifest["state"] == "complete"
    assert manifest["settings"]["batch"]["size"] == 18
    assert any((unbroken / "tensorboard").iterdir())
    card = (unbroken / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert "cross_lingual | 0.5000 | 0.5000" in card
    assert not (unbroken / "ray").exists(), "a finished run needs no checkpoints"
    assert not (unbroken / ".last").exists()


def test_the_checkpoint_loads_in_sentence_transformers_and_gives_identical_vectors(unbroken):
    from sentence_transformers import SentenceTransformer

    from hybrid_ir.encoders.embedding import encode
    from hybrid_ir.encoders.loading import load_encoder

    texts = ["wo ist haus7?", "dónde está casa12?", "where is house3?"]
    plain = SentenceTransformer(str(unbroken / "checkpoint"), device="cpu").encode_query(texts)
    ours = encode(load_encoder(str(unbroken / "checkpoint")), texts, role="query", precision="fp32")
    np.testing.assert_allclose(ours, plain, atol=1e-6)


def test_a_finished_run_is_not_trained_again(unbroken, store, ray_cluster):
    from hybrid_ir.training.run import train

    before = (unbroken / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    train(experiment(store, unbroken), ray_cluster)
    assert (unbroken / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before


def test_another_setting_or_another_store_does_not_resume_a_run(unbroken, store, tmp_path, ray_cluster):
    from hybrid_ir.training.run import train

    with pytest.raises(InputError, match=r"other settings .*train\.learning_rate"):
        train(experiment(store, unbroken, "train.learning_rate=5e-4"), ray_cluster)
    make_store(tmp_path / "other", n=280)
    with pytest.raises(InputError, match="another store"):
        train(experiment(tmp_path / "other", unbroken), ray_cluster)


def test_too_few_cpus_for_workers_and_data_actors_is_said_before_anything_starts(store, tmp_path, ray_cluster):
    from hybrid_ir.training.run import train

    with pytest.raises(InputError, match=r"needs 8 CPUs .* the cluster has 2; lower train\.workers"):
        train(experiment(store, tmp_path / "run", "train.workers=2", "train.cpus_per_worker=4"), ray_cluster)
    assert not (tmp_path / "run").exists()


def test_a_validation_beside_the_training_needs_its_own_cpus(store, tmp_path, ray_cluster):
    from hybrid_ir.training.run import train

    with pytest.raises(InputError, match=r"needs 2\.4 CPUs .* \+ 2 for validation\), the cluster has 2"):
        train(experiment(store, tmp_path / "run", "train.validation=async", "train.cpus_per_validation=2"), ray_cluster)


def test_a_training_at_a_uri_with_validation_beside_it_measures_the_same_checkpoints_and_does_not_wait(
    unbroken, store, bucket
):
    out = f"{bucket}/run"
    more = [f"store={store}", f"out={out}", "train.validation=async", "train.cpus_per_validation=0.5"]
    done = subprocess.run(
        [*COMMAND, "train", *OVERRIDES, *more], capture_output=True, text=True, env=environment(), timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"run written to {out}" in done.stdout
    filesystem, inner = open_filesystem(out)
    assert filesystem.get_file_info(f"{inner}/ray").type == fs.FileType.NotFound, "a finished run needs no checkpoints"
    run = Path(fetch(out))

    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    inline = [json.loads(line) for line in (unbroken / "log.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["AP_mean"] for row in rows if "AP_mean" in row}
    assert measured == {row["step"]: pytest.approx(row["AP_mean"], abs=5e-3) for row in inline if "AP_mean" in row}, (
        "every checkpoint is measured, and as if the workers had stopped for it"
    )
    first = next(place for place, row in enumerate(rows) if "AP_mean" in row)
    assert max(row["step"] for row in rows[:first]) > rows[first]["step"], "steps were logged before the measures came"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["validation"]["AP_mean"] == pytest.approx(max(measured.values()))
    assert measured[metrics["best_step"]] == max(measured.values())
    assert (run / "checkpoint" / "modules.json").is_file()
    assert_same_ledger(unbroken, run)


@pytest.mark.long
def test_storage_that_is_lost_under_a_training_is_said_and_the_same_command_goes_on(
    unbroken, store, tmp_path, monkeypatch
):
    """The bucket's server ends when the first checkpoint is there, and answers at the same port later."""
    import boto3
    from moto.server import ThreadedMotoServer

    def start(port: int) -> ThreadedMotoServer:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        server.start()
        return server

    server = start(0)
    _, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "XDG_CACHE_HOME": str(tmp_path),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="fails")
    command = [*COMMAND, "train", *OVERRIDES, f"store={store}", "out=s3://fails/run"]
    said = (tmp_path / "said").open("w+")
    training = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment())
    try:
        deadline = time.monotonic() + 200
        while not sealed_in("s3://fails/run"):
            assert training.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.stop()
        code = training.wait(timeout=200)
    finally:
        training.kill()
    text = (tmp_path / "said").read_text()
    assert code == 2, text
    assert "s3://fails/run" in text
    assert "once it answers again" in text
    assert "Traceback" not in text
    away = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=200)
    assert away.returncode == 2, away.stderr
    assert "s3://fails/run cannot be read or written" in away.stderr
    assert "Traceback" not in away.stderr
    server = start(port)
    try:
        begun = sealed_in("s3://fails/run")[0].done
        assert 0 < begun < STEPS
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        run = Path(fetch("s3://fails/run"))
        rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert rows[-1]["step"] == STEPS
        assert_same_ledger(unbroken, run)
    finally:
        server.stop()


def test_a_name_that_is_not_a_model_is_refused(store, tmp_path, ray_cluster):
    from hybrid_ir.training.run import train

    with pytest.raises(InputError, match=r"'no/such-model' is not a model"):
        train(experiment(store, tmp_path / "run", "encoder.name=no/such-model"), ray_cluster)


@pytest.mark.parametrize(
    "process", ["ray::RayTrainWorker", pytest.param("ray::TrainController", marks=pytest.mark.long)]
)
def test_a_killed_process_is_replaced_and_the_training_ends_the_same(store, tmp_path, ray_cluster, process):
    from hybrid_ir.training.run import train

    killed = []

    def kill_once(row: dict) -> None:
        # After the first validation there is a checkpoint to come back to. The controller is on this node too.
        if "AP_mono" in row and not killed:
            time.sleep(1.5)  # let the report reach the controller
            raylet = pgrep("-P", str(os.getpid()), "raylet")
            found = pgrep("-P", raylet[0], "-f", process)
            killed.extend(found)
            for pid in found:
                os.kill(int(pid), signal.SIGKILL)

    out = tmp_path / "run"
    # Slow enough that the kill comes before the end.
    more = ["train.feed=ray_data", "train.max_failures=2", "train.steps=300", "train.evaluate_every=100"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store.parent)  # relative paths mean the same to the workers, who stand elsewhere
        train(experiment(Path(store.name), Path(os.path.relpath(out)), *more), ray_cluster, kill_once)
    assert killed
    assert json.loads((out / "metrics.json").read_text())["steps"] == 300
    ledger = json.loads((out / "ledger.json").read_text())
    assert sum(row["batches"] for row in ledger["kinds"].values()) == 300
