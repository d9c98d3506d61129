"""Trainings of minutes in this process, and what was measured of them, which a file keeps.

In: an experiment. Out: the encoder that it trains, by the loop that a worker of Ray Train runs.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from hybrid_ir.batches import Waited, builder_for, in_process_feed, plan_for
from hybrid_ir.config import Experiment
from hybrid_ir.data import Store
from hybrid_ir.encoders import TextReader
from hybrid_ir.training.checkpoint import State, load_state
from hybrid_ir.training.initial_model import initial_model
from hybrid_ir.training.loop import train_steps


def begun(experiment: Experiment, store: Store) -> State:
    """A training before its first step."""
    with tempfile.TemporaryDirectory() as scratch:
        name = initial_model(experiment, store, Path(scratch), lambda: None)
        return load_state(experiment, name, None, Path(scratch), torch.device("cpu"))


def trained(experiment: Experiment, store: Store) -> State:
    """The training after its last step, whatever validations would choose."""
    state = begun(experiment, store)
    builder = builder_for(experiment, store, plan_for(store, experiment), TextReader.of(state.model))
    feed = Waited(in_process_feed(builder, 0, experiment.train.steps))
    try:
        train_steps(experiment, state, feed, None, _Unheard(), lambda measure: None, 0, 1)  # type: ignore[arg-type]
    finally:
        feed.close()
    return state


class _Unheard:
    """Who a training tells of its steps where nobody listens."""

    def stop_wanted(self) -> bool:
        return False

    def step(self, row: dict[str, Any], **figures: Any) -> None:
        pass

    def restart_clock(self) -> None:
        pass


def decided_by(experiment: Experiment, store: Store) -> dict[str, Any]:
    """All that decides what a training makes, to know its result by."""
    sections = experiment.model_dump(mode="json", include={"seed", "encoder", "batch", "loss", "train"})
    return {"store": store.content_hash, **sections}


def kept(file: Path, of: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was made of the same before, by a line of the file; else what `make` makes, in a new line of it.

    So whoever runs a benchmark again goes on where it was ended, and other settings have lines of their own."""
    of = json.loads(json.dumps(of))
    for row in _rows(file):
        if row["of"] == of:
            return row["made"]
    row = json.loads(json.dumps({"of": of, "made": make()}))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text("".join(json.dumps(each) + "\n" for each in [*_rows(file), row]), encoding="utf-8")
    os.replace(partial, file)
    return row["made"]


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def mean_of(values: Sequence[float]) -> tuple[float, float | None]:
    """Their mean, and half of its 95 % interval (Student's t): None for a single value."""
    if len(values) == 1:
        return float(values[0]), None
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def shown(values: Sequence[float], digits: int = 3) -> str:
    """`.607 ± .013`, as tables have it."""
    mean, half = mean_of(values)

    def text(value: float) -> str:
        return f"{value:,.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:,.{digits}f}"

    return text(mean) if half is None else f"{text(mean)} ± {text(half)}"
