"""The wheel in an environment of its own, away from the checkout: what a user who never cloned has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[1]
SMALL = [
    "encoder.vocabulary=600", "encoder.max_tokens=32", "batch.size=16", "train.steps=2", "train.cpus_per_worker=0.5",
    "train.threads_per_worker=1", "evaluate.bootstrap_rounds=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Folder of the commands of an environment that has the wheel and what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, CHECKOUT], check=True)
    (wheel,) = folder.glob("hybrid_ir-*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    constraints = ["-c", CHECKOUT / "constraints.txt"]
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", *constraints, wheel],
        check=True,
    )
    return python.parent


def run(installed: Path, cwd: Path, *words: str) -> str:
    """What `hybrid-ir WORDS` prints, in a folder that is not the checkout."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    done = subprocess.run(
        [installed / "hybrid-ir", *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_help_a_study_and_a_training_work_from_the_wheel(installed, tmp_path):
    assert "hybrid-ir" in run(installed, tmp_path, "--help")
    assert "trials" in run(installed, tmp_path, "study", "mixing_ratio", "--dry-run")
    (package,) = installed.parent.glob("lib/python*/site-packages/hybrid_ir")
    for form in (CHECKOUT / "hybrid_ir").rglob("*.yaml"):
        assert (package / form.relative_to(CHECKOUT / "hybrid_ir")).read_bytes() == form.read_bytes(), form
    assert "2,808" in run(installed, tmp_path, "prepare")
    assert "2 steps" in run(installed, tmp_path, "train", *SMALL)
    where = "import hybrid_ir, sys; print(hybrid_ir.__file__)"
    found = subprocess.run(
        [installed / "python", "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(installed.parent)
    assert {entry.name for entry in tmp_path.iterdir()} == {"store", "runs"}
