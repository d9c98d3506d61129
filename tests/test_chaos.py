"""The short form of benchmarks/chaos_training.py: two kills on a cluster of several nodes, held against an unbroken
run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ray_nodes import environment

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "chaos_training.py"


def test_a_training_whose_processes_are_killed_becomes_what_it_would_have_been(tmp_path):
    words = [
        "--kills",
        "2",
        "--runs",
        "1",
        "--steps",
        "150",
        "--seed",
        "3",
        "--no-resize",
        "--out",
        tmp_path / "figures",
    ]
    done = subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, env=environment(), timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = json.loads((tmp_path / "figures").read_text())
    assert figures["kills"] == 2
    assert figures["runs"] == [{"run": "run-0", "same_batches": True, "weights_differ_by": 0.0}]
