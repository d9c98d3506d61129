"""Measure every trained encoder of a study beyond its sweep's test. In: its trials. Out: what `probe_trial` finds.

Each is a Ray task that has what a training worker had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.training import encoding_options
from hybrid_ir.tuning.studies.probes import PROBES, Values, probe_trial
from hybrid_ir.tuning.studies.study import Study
from hybrid_ir.types import InputError


def probe_trials(
    study: Study, rows: Sequence[Mapping[str, Any]], out: Path, progress: Callable[[int], None]
) -> dict[str, Values]:
    """What `probe_trial` finds for every complete trial, by trial; {} for a study that measures nothing further.

    Ray must be connected. Raises InputError for what a task found wrong with its input; what was measured is kept.
    """
    import ray
    from ray.exceptions import RayTaskError

    if study.name not in PROBES and not study.collections:
        return {}
    task = ray.remote(probe_trial).options(**encoding_options(study.experiment))
    pending = {task.remote(study, row, out.absolute()): row["trial"] for row in rows if row["state"] == "complete"}
    found: dict[str, Values] = {}
    while pending:
        done, _ = ray.wait(list(pending))
        try:
            found[pending.pop(done[0])] = ray.get(done[0])
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise InputError(str(error.cause)) from None
            raise
        progress(len(found))
    return found
