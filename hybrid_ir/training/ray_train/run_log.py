"""Where a run's log rows go: RUN/log.jsonl, the trackers that were asked for, and Ray's gauges, for Prometheus.

In: rows as the workers send them. Opened in one process, the one that keeps the run, so that a run is one series.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.util.metrics import Gauge

from hybrid_ir.config import Experiment, leaf_texts
from hybrid_ir.training.ray_train.tracking import open_trackers, tracked

FIGURES = ("loss", "learning_rate", "gradient_norm", "pairs_per_s", "input_wait")


@contextmanager
def open_log(run: Path, experiment: Experiment) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that writes a row to all of them."""
    settings = leaf_texts(experiment.model_dump(mode="json", exclude={"index", "serve"}))
    with (run / "log.jsonl").open("a", encoding="utf-8") as file:
        trackers = [*open_trackers(experiment.train.trackers, run, settings), Gauges(run.name)]

        def write(row: Mapping[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            for tracker in trackers:
                tracker.write(row["step"], tracked(row))

        try:
            yield write
        finally:
            for tracker in trackers:
                tracker.close()


class Gauges:
    """A tracker (see tracking.py) that needs no asking: where nobody scrapes, it costs nothing."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._step = Gauge("hybrid_ir_train_step", "Steps done", ("run",))
        self._figures = {name: Gauge(f"hybrid_ir_train_{name}", "Of the latest step", ("run",)) for name in FIGURES}
        self._validation = Gauge("hybrid_ir_train_validation", "Of the latest validation", ("run", "measure"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._step.set(step, {"run": self._run})
        for key, value in values.items():
            group, _, name = key.partition("/")
            if group == "validation":
                self._validation.set(value, {"run": self._run, "measure": name})
            elif name in self._figures:
                self._figures[name].set(value, {"run": self._run})

    def close(self) -> None:
        pass
