"""The same training as a Ray job, on a local head started as a user starts it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_store import make_store

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def head(tmp_path, monkeypatch):
    """A head of its own ports, found by nothing else; (dashboard address, environment)."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "token", "HF_HUB_OFFLINE": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    port, dashboard = free_port(), free_port()
    command = [
        str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}", "--disable-usage-stats",
        # Its default is the same for every Ray of a machine, and an agent that cannot listen takes no job.
        f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    # --block, and not `ray stop` afterwards: that would also end the Ray of other tests.
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    yield f"http://127.0.0.1:{dashboard}", environment
    process.terminate()
    process.wait(timeout=60)


def submit(head, *words: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit`, again while the head is not yet able to take a job."""
    address, environment = head
    deadline = time.monotonic() + 300
    while True:
        done = _submit(address, environment, words)
        if "submitted successfully" in done.stdout or time.monotonic() > deadline:
            return done
        time.sleep(3)


def _submit(address: str, environment: dict[str, str], words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "ray"), "job", "submit", "--address", address, "--working-dir", str(ROOT / "tune_configs"), "--", *words],
        capture_output=True, text=True, env=environment, timeout=400,
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
