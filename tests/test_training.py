"""Training end to end on a small store: what a run leaves, the same on any workers and nodes, stopped and resumed, as a job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs
from ray_nodes import BIN, autoscaling, environment, free_port, started
from training_store import make_store

from hybrid_ir.config import Experiment, load_experiment
from hybrid_ir.storage import fetch, open_filesystem
from hybrid_ir.types import InputError

pytestmark = pytest.mark.slow

STEPS = 60
ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "hybrid_ir.cli"]
OVERRIDES = [
    "encoder.vocabulary=600", "encoder.max_tokens=32", "batch.size=18", f"train.steps={STEPS}", "train.learning_rate=1e-3",
    "train.warmup_steps=4", "train.evaluate_every=10", "train.precision=fp32", "train.cpus_per_worker=0.4",
    "train.cpus_per_data_actor=0.1", "train.feed=in_process", "train.threads_per_worker=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("training") / "store"
    make_store(path)
    return path


def experiment(store: Path, out: Path, *overrides: str) -> Experiment:
    return load_experiment(None, [*OVERRIDES, f"store={store}", f"out={out}", *overrides])


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def weights(run: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(run / "checkpoint" / "model.safetensors")


def assert_same_training(a: Path, b: Path) -> None:
    """Losses of common steps, ledgers and final weights agree to what float32 sums in another order allow."""
    left, right = losses(a), losses(b)
    common = left.keys() & right.keys()
    assert STEPS in common
    for step in common:
        assert left[step] == pytest.approx(right[step], rel=2e-3), step
    assert_same_ledger(a, b)
    first, second = weights(a), weights(b)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=2e-3, err_msg=name)


def assert_same_ledger(a: Path, b: Path) -> None:
    assert json.loads((a / "ledger.json").read_text()) == json.loads((b / "ledger.json").read_text())


def pgrep(*arguments: str) -> list[str]:
    return subprocess.run(["pgrep", *arguments], capture_output=True, text=True).stdout.split()


@pytest.fixture(scope="module")
def unbroken(store, tmp_path_factory, ray_cluster) -> Path:
    from hybrid_ir.train import train

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


def test_the_checkpoint_loads_in_sentence_transformers_and_gives_identical_vectors(unbroken):
    from sentence_transformers import SentenceTransformer

    from hybrid_ir.encoder import encode, load_encoder

    texts = ["wo ist haus7?", "dónde está casa12?", "where is house3?"]
    plain = SentenceTransformer(str(unbroken / "checkpoint"), device="cpu").encode_query(texts)
    ours = encode(load_encoder(str(unbroken / "checkpoint")), texts, role="query", precision="fp32")
    np.testing.assert_allclose(ours, plain, atol=1e-6)


@pytest.fixture
def growing_cluster(tmp_path):
    """A head that computes nothing, whose autoscaler may start two nodes of a CPU each; the dashboard's address."""
    port, dashboard, config = free_port(), free_port(), tmp_path / "autoscaling.json"
    variables = autoscaling(config, port, node_cpus=1, most_nodes=2)
    head = (f"--port={port}", "--num-cpus=0", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}")
    variables |= {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
    with started(tmp_path / "head.log", "--head", *head, f"--autoscaling-config={config}", **variables):
        yield f"http://127.0.0.1:{dashboard}"


def ray_job(dashboard: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "ray"), "job", words[0], "--address", dashboard, *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600)


def submit(dashboard: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` from the configs' folder, again while there is no agent to take a job."""
    deadline = time.monotonic() + 180
    while True:
        done = ray_job(dashboard, "submit", "--working-dir", str(ROOT / "tune_configs"), *words)
        if "submitted successfully" in done.stdout + done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(2)


def wait_for_a_validation(run: Path, deadline_s: float, alive: Callable[[], None]) -> None:
    """The first of six: a checkpoint is there, and most steps are to come."""
    deadline = time.monotonic() + deadline_s
    while not (run / "log.jsonl").is_file() or "AP_mono" not in (run / "log.jsonl").read_text():
        alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def steps_of_stopped(run: Path) -> int:
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["state"] == "stopped"
    assert 0 < manifest["steps"] < STEPS
    return manifest["steps"]


@pytest.mark.alone
def test_a_job_brings_its_nodes_is_stopped_and_goes_on_as_if_it_had_not_been_and_a_bad_one_says_why(
    unbroken, store, tmp_path, growing_cluster
):
    """Stopped on two workers, resumed on three, which neither node holds alone, with a data actor: losses, ledger and weights are
    the unbroken run's. The encoder is the folder that the other run made of its preset."""
    run = tmp_path / "run"
    settings = [*OVERRIDES, f"store={store}", f"out={run}", f"encoder.name={unbroken / 'initial'}"]
    train = ["--", "hybrid-ir", "train", *settings, "train.feed=ray_data", "train.data_actors=1"]
    two = ["train.workers=2", "train.cpus_per_worker=0.6", "--wait-for-nodes=300"]
    first = submit(growing_cluster, "--submission-id=first", "--no-wait", *train, *two)
    assert first.returncode == 0, first.stdout + first.stderr
    wait_for_a_validation(run, 300, lambda: None)
    ray_job(growing_cluster, "stop", "first")
    said = ray_job(growing_cluster, "logs", "first").stdout
    assert "waiting up to 300 s for nodes: training needs 1.3 CPUs" in said
    done = steps_of_stopped(run)
    assert f"stopped after step {done}" in said

    again = submit(growing_cluster, *train, "train.workers=3")
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert f"run written to {run}" in again.stdout
    assert_same_training(unbroken, run)

    bad = submit(growing_cluster, *train, "batch.alpah=0.5")
    assert bad.returncode == 1
    assert "did you mean 'batch.alpha'" in bad.stdout
    assert "failed with exit code 2" in bad.stdout + bad.stderr


def test_a_finished_run_is_not_trained_again(unbroken, store, ray_cluster):
    from hybrid_ir.train import train

    before = (unbroken / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    train(experiment(store, unbroken), ray_cluster)
    assert (unbroken / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before


def test_another_setting_or_another_store_does_not_resume_a_run(unbroken, store, tmp_path, ray_cluster):
    from hybrid_ir.train import train

    with pytest.raises(InputError, match=r"other settings .*train\.learning_rate"):
        train(experiment(store, unbroken, "train.learning_rate=5e-4"), ray_cluster)
    make_store(tmp_path / "other", n=280)
    with pytest.raises(InputError, match="another store"):
        train(experiment(tmp_path / "other", unbroken), ray_cluster)


def test_too_few_cpus_for_workers_and_data_actors_is_said_before_anything_starts(store, tmp_path, ray_cluster):
    from hybrid_ir.train import train

    with pytest.raises(InputError, match=r"needs 8 CPUs .* the cluster has 2; lower train\.workers"):
        train(experiment(store, tmp_path / "run", "train.workers=2", "train.cpus_per_worker=4"), ray_cluster)
    assert not (tmp_path / "run").exists()


def test_a_validation_beside_the_training_needs_its_own_cpus(store, tmp_path, ray_cluster):
    from hybrid_ir.train import train

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
    assert filesystem.get_file_info(f"{inner}/ray/train").type == fs.FileType.Directory, (
        "Ray keeps its checkpoints there"
    )
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


def test_a_name_that_is_not_a_model_is_refused(store, tmp_path, ray_cluster):
    from hybrid_ir.train import train

    with pytest.raises(InputError, match=r"'no/such-model' is not a model"):
        train(experiment(store, tmp_path / "run", "encoder.name=no/such-model"), ray_cluster)


def test_a_killed_worker_is_replaced_and_the_training_ends_the_same(unbroken, store, tmp_path, ray_cluster):
    from hybrid_ir.train import train

    killed = []

    def kill_once(row: dict) -> None:
        # After the first validation there is a checkpoint to come back to; the worker is the process that trains.
        if "AP_mono" in row and not killed:
            time.sleep(1.5)  # let the report reach the controller
            raylet = pgrep("-P", str(os.getpid()), "raylet")
            found = pgrep("-P", raylet[0], "-f", "ray::RayTrainWorker")
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
