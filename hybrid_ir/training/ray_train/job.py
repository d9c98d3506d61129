"""What a training worker is given, and how it talks to the driver. Light to import: Ray's controller and actors import it,
and sentence-transformers alone takes ten seconds of a small machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybrid_ir.batches import Plan
from hybrid_ir.config import Experiment
from hybrid_ir.data import Store


@dataclass(frozen=True)
class Job:
    """What every worker is given."""

    experiment: Experiment
    store: Store
    plan: Plan
    model: str
    """Folder or hub name of the encoder to start from."""
    tokenizer: Any
    monitor: Any
    """Actor that takes rows for the log and answers whether to stop."""


class Monitor:
    """Actor between rank 0 and the driver: rows one way, the wish to stop the other."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._stop = False

    def row(self, row: dict[str, Any]) -> bool:
        self._rows.append(row)
        return self._stop

    def drain(self) -> list[dict[str, Any]]:
        rows, self._rows = self._rows, []
        return rows

    def stop(self) -> None:
        self._stop = True
