"""Stages of mining as Ray Data jobs. In: a stage and the number of its units. Out: what it makes of them, as it comes.

The stage is put into the object store once, and each actor takes its own from there: arrays are shared by the actors of
a machine. What the stage loads, such as an encoder, each actor loads when its first unit comes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import ray

from hybrid_ir.config import Index
from hybrid_ir.index import rows_of_actors
from hybrid_ir.types import InputError

T = TypeVar("T")


class _Units:
    """Ray Data's stage. `fault` is empty, or says why a unit cannot be: Ray would wrap what is raised here."""

    def __init__(self, stage: list[Any]) -> None:
        self._stage: Any = ray.get(stage[0])

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        made, fault = [], []
        for number in rows["unit"].tolist():
            try:
                made.append(pickle.dumps(self._stage(number)))
                fault.append("")
            except InputError as error:
                made.append(b"")
                fault.append(str(error))
        return {"made": np.asarray(made, dtype=object), "fault": np.asarray(fault, dtype=object)}


def run_on_actors(settings: Index, stage: Callable[[int], T], units: int) -> Iterator[T]:
    """What the stage makes of units 0 to `units` - 1, in no promised order, by as many actors as `settings` say.

    Raises InputError for what the stage raises it for.
    """
    # In a list: Ray would put the stage itself in place of a reference that is an argument.
    arguments = ([ray.put(stage)],)
    for row in rows_of_actors(_Units, arguments, [{"unit": n} for n in range(units)], settings):
        if row["fault"]:
            raise InputError(row["fault"])
        yield pickle.loads(row["made"])
