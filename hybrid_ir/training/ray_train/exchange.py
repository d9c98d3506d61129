"""What the driver and its workers exchange. In: an assignment to every worker. Out: rows of rank 0's for the log.

Light to import: Ray's controller and actors import it too, and sentence-transformers alone takes ten seconds of a small
machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from hybrid_ir.batches import Plan
from hybrid_ir.config import Experiment
from hybrid_ir.data import Store
from hybrid_ir.encoders import TextReader

LOG_EVERY_S = 0.5


@dataclass(frozen=True)
class Assignment:
    """What every worker is given."""

    experiment: Experiment
    store: Store
    plan: Plan
    model: str
    """Folder or hub name of the encoder to start from."""
    reader: TextReader
    monitor: Any
    """Handle of the actor that takes rows for the log and answers whether to stop (a `Monitor`)."""
    checkpoint: Any
    """Ray's `Checkpoint` to go on from; None: from the start."""
    owes_validation: bool
    """A validation of that checkpoint, which a task beside the training was to make, was lost."""


class Monitor:
    """Actor between rank 0 and the driver: rows one way, the wish to stop the other."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._stop = False
        self._placement_group: Any = None

    def hold(self, placement_group: Any) -> None:
        """What the workers stand in. It outlives a controller of Ray Train's that is killed, and takes their CPUs."""
        self._placement_group = placement_group

    def held(self) -> Any:
        return self._placement_group

    def row(self, row: dict[str, Any]) -> bool:
        self._rows.append(row)
        return self._stop

    def drain(self) -> list[dict[str, Any]]:
        rows, self._rows = self._rows, []
        return rows

    def stop(self) -> None:
        self._stop = True


class Recorder:
    """A worker's end: rank 0 sends a few rows a second and keeps the answer to whether to stop; others are silent."""

    def __init__(self, monitor: Any, rank: int) -> None:
        self._monitor = monitor if rank == 0 else None
        self._answer: Any = None
        self._stop = False
        self._pairs = 0
        self._elapsed_s = self._waited_s = 0.0
        self._now_s = self._waiting_s = 0.0

    def restart_clock(self) -> None:
        """The clock starts at zero again. Steps since the last row stay in the next one, with their seconds."""
        self._elapsed_s, self._waited_s = self._elapsed_s - self._now_s, self._waited_s - self._waiting_s
        self._now_s = self._waiting_s = 0.0

    def stop_wanted(self) -> bool:
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stop = self._stop or ray.get(self._answer)
            self._answer = None
        return bool(self._stop)

    def step(self, row: dict[str, Any], *, at_once: bool, elapsed_s: float, waited_s: float, pairs: int) -> None:
        """Note a step on so many pairs. Seconds are since the clock was restarted."""
        if self._monitor is None:
            return
        self._pairs += pairs
        self._now_s, self._waiting_s = elapsed_s, waited_s
        # The clock is the training's own: a checkpoint or a validation between two rows is not theirs.
        if not at_once and elapsed_s - self._elapsed_s < LOG_EVERY_S:
            return
        seconds = max(elapsed_s - self._elapsed_s, 1e-9)
        figures = {"pairs_per_s": self._pairs / seconds, "input_wait": (waited_s - self._waited_s) / seconds}
        self._pairs, self._elapsed_s, self._waited_s = 0, elapsed_s, waited_s
        self._send({**row, **figures})

    def validation(self, step: int, measures: dict[str, float]) -> None:
        self._send({"step": step, **measures})

    def saved(self, step: int) -> None:
        """A checkpoint is there, and all rows up to its step were sent."""
        self._send({"step": step, "saved": True})

    def _send(self, row: dict[str, Any]) -> None:
        if self._monitor is not None:
            answer = self._monitor.row.remote(row)
            if self._answer is None:
                self._answer = answer
