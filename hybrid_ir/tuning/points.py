"""The points of a search space. In: a `Space`, and the experiment that it varies. Out: points, and their experiments.

A *point* is a mapping of dotted paths to values, as on the command line; the path `recipe` stands for a named training.
A point with a seed is a *trial*. Points of a grid or a random search are all known, and checked, before anything
starts. A Bayesian search draws the next from what the last ones scored.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hybrid_ir.config import KINDS, Experiment, with_values
from hybrid_ir.tuning.axes import Axis, Range, Simplex
from hybrid_ir.tuning.search_space import Space

Point = Mapping[str, Any]
Namer = Callable[[Point, Experiment], str]
"""What a trial is called. Two of one name are one trial."""


def by_training(point: Point, experiment: Experiment) -> str:
    """So that points that come to the same training are one."""
    return trial_name(experiment)


def enumerate_points(space: Space, base: Experiment, name: Namer = by_training) -> list[dict[str, Any]]:
    """All points of a grid or random search, those of one name once; [] for a Bayesian one.

    Raises InputError when a point is not a valid experiment: an unknown path, or a value its field refuses.
    """
    if space.search == "bayesian":
        for share in (0.0, 1.0):
            trial_experiment(base, middle_point(space, share), space.seeds[0])
        return []
    if space.search == "grid":
        grids = ((axes, itertools.product(*map(_grid_values, axes.values()))) for axes in space.axes)
        points = (dict(zip(axes, values, strict=True)) for axes, grid in grids for values in grid)
    else:
        uniform = np.random.default_rng(base.seed).random
        draws = (point_from(space.axes[0], uniform) for _ in range(1000 * (space.samples or 1)))
        points = (point for point in draws if point is not None)
    found: dict[str, dict[str, Any]] = {}
    for point in points:
        found.setdefault(name(point, trial_experiment(base, point, space.seeds[0])), point)
        if len(found) == space.samples:
            break
    return list(found.values())


def point_from(axes: Mapping[str, Axis], uniform: Any) -> dict[str, Any] | None:
    """A point from uniform numbers in [0, 1), one for each call of `uniform()`; None when its mix is out of bounds."""
    point: dict[str, Any] = {}
    for path, axis in axes.items():
        if isinstance(axis, Simplex):
            point[path] = axis.draw([uniform() for _ in axis.simplex])
            if point[path] is None:
                return None
        elif isinstance(axis, Range):
            point[path] = axis.at(uniform())
        else:
            point[path] = axis[min(int(uniform() * len(axis)), len(axis) - 1)]
    return point


def suggest_point(space: Space, trial: Any) -> None:
    """Ask an Optuna trial for a point of a Bayesian search; `drawn_point` reads what it suggests."""
    for path, axis in space.axes[0].items():
        if isinstance(axis, Simplex):
            for kind in axis.simplex:
                trial.suggest_float(f"{path}/{kind}", 0.0, 1.0)
        elif isinstance(axis, Range):
            trial.suggest_float(path, 0.0, 1.0)
        else:
            trial.suggest_categorical(path, range(len(axis)))


def drawn_point(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """The point of a Bayesian draw: a number in [0, 1] for a range and for each kind of a mix, a place in a list."""
    point: dict[str, Any] = {}
    for path, axis in space.axes[0].items():
        drawn = config[path]
        if isinstance(axis, Simplex):
            point[path] = axis.draw([drawn[kind] for kind in axis.simplex])
        else:
            point[path] = axis.at(drawn) if isinstance(axis, Range) else axis[drawn]
    return point


def middle_point(space: Space, share: float) -> dict[str, Any]:
    """A point to check a space by: the value at `share` of each range, the first of each list, an allowed mix."""
    point = {}
    for path, axis in space.axes[0].items():
        if isinstance(axis, Simplex):
            slack = 1 - sum(low for low, _ in axis.simplex.values())
            room = sum(high - low for low, high in axis.simplex.values()) or 1
            point[path] = {kind: low + slack * (high - low) / room for kind, (low, high) in axis.simplex.items()}
        else:
            point[path] = axis.at(share) if isinstance(axis, Range) else axis[0]
    return point


def trial_experiment(base: Experiment, point: Point, seed: int) -> Experiment:
    """The experiment of a trial. Raises InputError for what is not valid."""
    return with_values(base, {**point, "seed": seed})


def trial_name(experiment: Experiment) -> str:
    """A name that depends on what is trained alone: the same training is one trial, however it was asked for, also
    where a later version knows more settings."""
    left_out = {"out", "store", "prepare", "index", "serve", "evaluate"}
    tree = experiment.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
    tree.setdefault("batch", {}).pop("alpha", None)
    tree["batch"]["mix"] = {kind: round(weight, 9) for kind, weight in experiment.batch.weights.items()}
    return hashlib.blake2b(json.dumps(tree, sort_keys=True).encode(), digest_size=5).hexdigest()


def point_label(point: Point) -> str:
    """`alpha=0.5 name=tiny`; a mix as its weights in the order mono/cross/multi."""
    parts = []
    for path, value in point.items():
        if path == "batch.mix" and value:
            parts.append("mix " + "/".join(f"{value.get(kind, 0):.2g}" for kind in KINDS))
        elif path == "recipe":
            parts.append(str(value))
        else:
            shown = f"{value:.3g}" if isinstance(value, float) else str(value)
            parts.append(f"{path.rpartition('.')[2]}={shown}")
    return " ".join(parts)


def _grid_values(axis: Axis) -> list[Any]:
    if isinstance(axis, Simplex):
        return list(axis.grid())
    if isinstance(axis, Range):
        assert axis.points is not None
        return [axis.at(i / (axis.points - 1)) for i in range(axis.points)]
    return list(axis)
