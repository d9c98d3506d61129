"""`kill -9` of the command itself, then the same command: a training into a bucket, as on a machine that died."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ray_nodes import environment
from training_runs import OVERRIDES, STEPS, experiment
from training_store import groups

from hybrid_ir.batches.from_experiment import plan_for
from hybrid_ir.data.inputs import Input
from hybrid_ir.data.prepare import prepare
from hybrid_ir.data.store import open_store
from hybrid_ir.storage import fetch, open_filesystem
from hybrid_ir.training.ray_train.saved import sealed_in

pytestmark = pytest.mark.slow


def is_claimed(out: str) -> bool:
    filesystem, inner = open_filesystem(out)
    return filesystem.get_file_info(f"{inner}/manifest.json").is_file


def logged(out: str) -> list[dict]:
    filesystem, inner = open_filesystem(f"{out}/log.jsonl")
    if not filesystem.get_file_info(inner).is_file:
        return []
    return [json.loads(line) for line in filesystem.open_input_stream(inner).read().decode().splitlines()]


def is_saved(out: str) -> bool:
    return bool(sealed_in(out) and logged(out))


def killed_once(command: list[str], condition, out: str) -> None:
    """Start the command, and kill it with all that it started, as soon as the condition holds."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    deadline = time.monotonic() + 200
    while not condition(out):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        each.kill()
    process.communicate()


def test_the_same_command_goes_on_where_the_machine_died(bucket, tmp_path):
    """Of two sources in a proportion that no batch has by itself, as many rows as in a training that is not stopped."""
    store, out = tmp_path / "store", f"{bucket}/run"
    inputs = [Input("houses", lambda: iter(groups(200))), Input("flats", lambda: iter(groups(100, first=200)))]
    prepare(inputs, str(store), seed=0, validation_fraction=0.05, test_fraction=0.1, settings={})
    mix = "batch.sources={houses: 4, flats: 3}"
    command = [sys.executable, "-m", "hybrid_ir.cli", "train", *OVERRIDES, mix, f"store={store}", f"out={out}"]
    killed_once(command, is_claimed, out)
    assert not sealed_in(out), "killed before it had trained"
    killed_once(command, is_saved, out)
    saved, before = sealed_in(out)[0].done, logged(out)
    assert 0 < saved < STEPS

    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    run = Path(fetch(out))
    assert json.loads((run / "manifest.json").read_text())["state"] == "complete"
    ledger = json.loads((run / "ledger.json").read_text())
    plan = plan_for(open_store(str(store)), experiment(store, run, mix))
    assert {kind: row["batches"] for kind, row in ledger["kinds"].items()} == plan.kind_counts(STEPS)
    rows = {kind: {name: row["rows"] for name, row in each.items()} for kind, each in ledger["sources"].items()}
    assert rows == plan.realised_sources(STEPS)
    rows = logged(out)
    assert rows[: len(before)] == before, "the log has what the killed command had put there with its checkpoint"
    assert min(row["step"] for row in rows[len(before) :]) > saved, "and goes on from there"
