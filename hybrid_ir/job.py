"""What a training worker is given. Light to import, as Ray Train's controller imports it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybrid_ir.config import Experiment
from hybrid_ir.plan import Plan
from hybrid_ir.store import Store


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
