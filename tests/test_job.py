"""The same training as a Ray job, on a local head started as a user starts it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from ray_nodes import BIN, environment, free_port, started
from training_store import make_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def head(tmp_path):
    """A head of its own ports, found by nothing else: its dashboard's address."""
    dashboard = free_port()
    options = (f"--port={free_port()}", "--num-cpus=2", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}")
    with started(tmp_path / "head.log", "--head", *options):
        yield f"http://127.0.0.1:{dashboard}"


def submit(head: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit`, again while the head is not yet able to take a job."""
    deadline = time.monotonic() + 300
    while True:
        done = _submit(head, words)
        if "submitted successfully" in done.stdout or time.monotonic() > deadline:
            return done
        time.sleep(3)


def _submit(address: str, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "ray"), "job", "submit", "--address", address, "--working-dir", str(ROOT / "tune_configs"), "--", *words],
        capture_output=True, text=True, env=environment(), timeout=400,
    )  # fmt: skip


def test_a_training_job_ends_with_its_run_on_disk_and_a_bad_one_with_a_clear_message(head, tmp_path):
    make_store(tmp_path / "store")
    settings = [
        f"store={tmp_path / 'store'}", f"out={tmp_path / 'run'}", "encoder.vocabulary=600", "encoder.max_tokens=32",
        "batch.size=18", "train.steps=10", "train.cpus_per_worker=0.5",
    ]  # fmt: skip
    good = submit(head, "hybrid-ir", "train", "--config", "quickstart.yaml", *settings)
    assert good.returncode == 0, good.stdout[-3000:] + good.stderr[-3000:]
    assert f"run written to {tmp_path / 'run'}" in good.stdout
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"] == 10

    bad = submit(head, "hybrid-ir", "train", *settings, "batch.alpah=0.5")
    assert bad.returncode != 0
    assert "did you mean 'batch.alpha'" in bad.stdout + bad.stderr
