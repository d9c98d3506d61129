"""A training's log rows as Ray gauges, for Prometheus. Set in the process that keeps the run's log, so one series a run."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

FIGURES = ("loss", "learning_rate", "gradient_norm", "pairs_per_s", "input_wait")


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
