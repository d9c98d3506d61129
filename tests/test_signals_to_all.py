"""A stop that everything hears: what a terminal, `timeout`, systemd and Slurm send to a training and to its Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ray_nodes import environment
from training_runs import OVERRIDES
from training_store import make_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("signals") / "store"
    make_store(path)
    return path


def to_the_group(process: subprocess.Popen, number: int) -> None:
    os.killpg(process.pid, number)


def to_timeout(process: subprocess.Popen, number: int) -> None:
    """It passes the signal on, to its command and to its group."""
    process.send_signal(number)


def to_every_process(process: subprocess.Popen, number: int) -> None:
    """As systemd does, which goes by the control group and not by the process group."""
    for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        each.send_signal(number)


@pytest.mark.parametrize(
    ("send", "number"),
    [
        pytest.param(to_timeout, signal.SIGTERM, id="timeout", marks=pytest.mark.long),
        pytest.param(to_every_process, signal.SIGTERM, id="systemd", marks=pytest.mark.long),
        pytest.param(to_the_group, signal.SIGINT, id="terminal"),
    ],
)
def test_a_stop_that_all_processes_hear_is_saved(store, tmp_path, send, number):
    out = tmp_path / "run"
    more = [f"store={store}", f"out={out}", "train.steps=5000", "train.evaluate_every=5000", "train.trackers=[]"]
    command = [sys.executable, "-m", "hybrid_ir.cli", "train", *OVERRIDES, *more]
    process = subprocess.Popen(
        ["timeout", "900", *command] if send is to_timeout else command,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (out / "log.jsonl").is_file() or not (out / "log.jsonl").read_text().strip():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    ours = psutil.Process(process.pid).children(recursive=True)
    send(process, number)
    said = process.communicate(timeout=200)
    assert process.returncode == 130, said
    assert "resume with the same command" in said[1]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["state"] == "stopped"
    assert manifest["steps"] > 0
    assert f"stopped after step {manifest['steps']} of 5000" in said[1]
    psutil.wait_procs(ours, timeout=30)
    assert not [each for each in ours if each.is_running()], "Ray's processes leave with the training"
