"""What follows a training step. In: steps done, settings, whether a stop is wanted. Out: one Decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hybrid_ir.config import Train


@dataclass(frozen=True)
class Decision:
    """What a worker does between one step and the next; every rank comes to the same."""

    validate: Literal["inline", "async"] | None
    """inline: the workers measure now; async: a task of its own measures the checkpoint that is saved."""
    save: bool
    """Save a checkpoint to resume from."""
    then: Literal["continue", "stop", "finish"]
    """stop: leave, to be resumed; finish: leave, as the training is over."""
    owes_validation: bool = False
    """A stop came where the workers were to validate: a resumed run makes that up before its next step."""

    @property
    def log(self) -> bool:
        """Whether the step has a row in the log, however short the time since the last row."""
        return self.validate is not None or self.then != "continue"

    def after_validation(self, stale: int, patience: int | None) -> Decision:
        """The same, or to finish where `stale` validations since the best one are all that patience allows."""
        return self if patience is None or stale < patience else replace(self, then="finish")


def decide(done: int, settings: Train, *, stop: bool, can_validate: bool, overdue: bool = False) -> Decision:
    """What follows step `done` (the first is 1).

    `can_validate`: the store has a validation split. `overdue`: the last checkpoint is `checkpoint_minutes` old.
    """
    last = done == settings.steps
    due = can_validate and (last or _is_due(done, settings.evaluate_every))
    if last:  # also where a stop is wanted: there is no step to resume at
        return Decision(settings.validation if due else None, True, "finish")
    # Whoever asked for a stop does not wait for the workers' own validation.
    owes = due and stop and settings.validation == "inline"
    validate = settings.validation if due and not owes else None
    save = stop or due or overdue or _is_due(done, settings.checkpoint_every)
    return Decision(validate, save, "stop" if stop else "continue", owes)


def _is_due(done: int, every: int | None) -> bool:
    return every is not None and done % every == 0


def is_stale(rows: Sequence[Mapping[str, Any]], measure: str, patience: int | None) -> bool:
    """Whether the last `patience` validations among a run's log rows brought nothing better. Null patience = never."""
    values = [row[measure] for row in rows if measure in row]
    return patience is not None and bool(values) and len(values) - 1 - values.index(max(values)) >= patience
