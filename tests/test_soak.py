"""The soak in short: load with bursts, deaths, a swap and its rollback, hostile requests, and more than fits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from indices import write_served_index
from services import environment, free_port, labelled

pytestmark = [pytest.mark.slow, pytest.mark.long]
SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


def test_every_answer_is_right_and_every_refusal_is_policy(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for seed, index in enumerate((old, new)):
        write_served_index(index, labelled(index.name), shards=1, seed=seed)
    words = ["--index", str(old), "--other", str(new), "--seconds", "45", "--rate", "5", "--port", str(free_port())]
    done = subprocess.run(
        [sys.executable, str(SOAK), *words], capture_output=True, text=True, env=environment(), timeout=400
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    report = json.loads(done.stdout[done.stdout.index("{") :])
    assert report["checked"] > 100
    assert report["refused"] > 0
