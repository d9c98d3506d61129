"""A short training on the made-up store."""

from __future__ import annotations

from pathlib import Path

from hybrid_ir.config import Experiment, load_experiment

STEPS = 60
OVERRIDES = [
    "encoder.vocabulary=600", "encoder.max_tokens=32", "batch.size=18", f"train.steps={STEPS}", "train.learning_rate=1e-3",
    "train.warmup_steps=4", "train.evaluate_every=10", "train.precision=fp32", "train.cpus_per_worker=0.4",
    "train.cpus_per_data_actor=0.1", "train.feed=in_process", "train.threads_per_worker=1",
]  # fmt: skip


def experiment(store: Path, out: Path, *overrides: str) -> Experiment:
    return load_experiment(None, [*OVERRIDES, f"store={store}", f"out={out}", *overrides])
