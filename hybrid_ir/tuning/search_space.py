"""Search spaces: which values of which dotted paths a sweep tries, and with which seeds. YAML in, checked points out.

A *point* is a mapping of dotted paths to values, as on the command line; the path `recipe` stands for a named training.
A point with a seed is a *trial*. Points of a grid or a random search are all known, and checked, before anything starts;
a Bayesian search draws the next from what the last ones scored.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from hybrid_ir.config import KINDS, Experiment, Kind, Section, with_values
from hybrid_ir.types import InputError

Point = Mapping[str, Any]
Bounds = tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]


class Range(Section):
    """Numbers between `low` and `high`, both included."""

    low: float
    high: float
    log: bool = False
    """Uniform in the logarithm, as learning rates want."""
    integer: bool = False
    points: int | None = Field(default=None, ge=2)
    """Values that a grid search takes from it, evenly spaced."""

    @model_validator(mode="after")
    def _something_in_it(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"the range from {self.low:g} to {self.high:g} is empty: low must be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low above 0, got {self.low:g}")
        return self

    def at(self, share: float) -> float | int:
        """The value at `share` (0 to 1) of the way from low to high."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = low + share * (high - low)
        value = math.exp(value) if self.log else value
        return round(value) if self.integer else float(f"{value:.6g}")


class Simplex(Section):
    """Weights of the kinds of batches that sum to 1, each within its bounds."""

    simplex: dict[Kind, Bounds]
    step: float | None = Field(default=None, gt=0, le=1)
    """Distance between the weights of a grid search: 0.25 gives 15 mixes of three kinds."""

    @field_validator("simplex", mode="before")
    @classmethod
    def _a_list_is_unbounded(cls, value: Any) -> Any:
        return dict.fromkeys(value, (0.0, 1.0)) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _sums_to_one(self) -> Simplex:
        if len(self.simplex) < 2:
            raise ValueError(f"a simplex needs two kinds or three of {', '.join(KINDS)}")
        low, high = (sum(bounds[i] for bounds in self.simplex.values()) for i in (0, 1))
        empty = [kind for kind, (a, b) in self.simplex.items() if a > b]
        if empty:
            raise ValueError(f"the bounds of {empty[0]} are empty: the lower must not be above the upper")
        if low > 1 + 1e-9 or high < 1 - 1e-9:
            raise ValueError(f"weights within these bounds sum to between {low:g} and {high:g}, and cannot sum to 1")
        if self.step is not None and abs(round(1 / self.step) * self.step - 1) > 1e-9:
            raise ValueError(
                f"weights in steps of {self.step:g} cannot sum to 1; choose a step such as 0.1, 0.2 or 0.25"
            )
        if self.step is not None and not list(self.grid()):
            raise ValueError(f"no weights in steps of {self.step:g} lie within these bounds")
        return self

    def grid(self) -> Iterator[dict[str, float]]:
        """Every mix whose weights are multiples of `step`."""
        assert self.step is not None
        parts = round(1 / self.step)
        for counts in itertools.product(range(parts + 1), repeat=len(self.simplex)):
            mix = {kind: count / parts for kind, count in zip(self.simplex, counts, strict=True)}
            if sum(counts) == parts and self._holds(mix):
                yield mix

    def draw(self, uniform: Sequence[float]) -> dict[str, float] | None:
        """The mix of as many uniform numbers: their exponential spacings are uniform on the simplex above the lower
        bounds. None where a weight is above its upper bound."""
        spacings = [-math.log(max(u, 1e-12)) for u in uniform]
        lows = [low for low, _ in self.simplex.values()]
        slack = (1 - sum(lows)) / max(sum(spacings), 1e-12)
        mix = {kind: round(low + slack * x, 4) for kind, low, x in zip(self.simplex, lows, spacings, strict=True)}
        return mix if self._holds(mix) else None

    def _holds(self, mix: Mapping[str, float]) -> bool:
        return all(a - 1e-4 <= mix[kind] <= b + 1e-4 for kind, (a, b) in self.simplex.items())


def _axis_kind(value: Any) -> str:
    if isinstance(value, Simplex) or (isinstance(value, dict) and "simplex" in value):
        return "simplex"
    return "range" if isinstance(value, dict | Range) else "values"


Axis = Annotated[
    Annotated[tuple[Any, ...], Field(min_length=1), Tag("values")]
    | Annotated[Range, Tag("range")]
    | Annotated[Simplex, Tag("simplex")],
    Discriminator(_axis_kind),
]
"""A list of values, a range of numbers, or mixes."""


class Asha(Section):
    """Asynchronous successive halving (arXiv 1810.05934): of the trials that reach a rung, the best go on."""

    first: int = Field(ge=1)
    """Steps before the first rung; must fall on a validation."""
    factor: int = Field(default=3, ge=2)
    """One in so many goes on, and the rungs are so many times further apart."""


class Space(Section):
    search: Literal["grid", "random", "bayesian"] = "grid"
    samples: int | None = Field(default=None, ge=1)
    """Points that a random or Bayesian search tries."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Each point is trained once with each."""
    axes: tuple[dict[str, Axis], ...]
    """Dotted paths (or `recipe`) and their values: every combination. A list of such mappings is tried one after another."""
    asha: Asha | None = None
    """Stop trials that fall behind; null = every trial runs to its end."""
    max_rank_distance: float | None = Field(default=None, gt=0)
    """The choice is the best AP_mean among points below this; null = the best AP_mean."""

    @field_validator("axes", mode="before")
    @classmethod
    def _one_mapping_will_do(cls, value: Any) -> Any:
        return (value,) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fits_the_search(self) -> Space:
        if not self.axes or not all(self.axes):
            raise ValueError("axes is empty: name at least one path with its values")
        if (self.samples is None) != (self.search == "grid"):
            raise ValueError(f"search={self.search} needs {'no ' if self.search == 'grid' else ''}samples")
        if self.search != "grid" and len(self.axes) > 1:
            raise ValueError(f"search={self.search} takes one mapping of axes")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        for path, axis in ((path, axis) for axes in self.axes for path, axis in axes.items()):
            if path in ("seed", "out", "store"):
                raise ValueError(f"{path} cannot be an axis{': set seeds' if path == 'seed' else ''}")
            if isinstance(axis, Simplex) and path != "batch.mix":
                raise ValueError(f"a simplex is for batch.mix, not {path}")
            if self.search == "grid" and isinstance(axis, Range) and axis.points is None:
                raise ValueError(f"{path}: a grid needs to know how many points of the range to take: set points")
            if self.search == "bayesian" and isinstance(axis, Simplex) and any(b < 1 for _, b in axis.simplex.values()):
                raise ValueError(f"{path}: a Bayesian search keeps lower bounds only: set every upper bound to 1")
            if self.search == "grid" and isinstance(axis, Simplex) and axis.step is None:
                raise ValueError(f"{path}: a grid needs to know how far apart the weights are: set step")
        return self


def load_space(file: str | Path) -> Space:
    """Read a search space. Raises InputError that names the file, the key, and what was found."""
    path = Path(file)
    if not path.is_file():
        raise InputError(f"no search space at {file}; tune_configs/ has examples")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{file} must hold a mapping at its top, found {type(tree).__name__}")
    return parse_space(tree, str(file))


def parse_space(tree: Mapping[str, Any], origin: str) -> Space:
    """Validate a space given as a nested mapping. `origin` is named in the error."""
    try:
        return Space.model_validate(tree)
    except ValidationError as error:
        raise InputError("\n".join(_explain(e, origin) for e in error.errors())) from None


def enumerate_points(space: Space, base: Experiment) -> list[dict[str, Any]]:
    """All points of a grid or random search, those that come to the same training once; [] for a Bayesian one.

    Raises InputError when a point is not a valid experiment: an unknown path, or a value its field refuses.
    """
    if space.search == "bayesian":
        for share in (0.0, 1.0):
            trial_experiment(base, middle_point(space, share), space.seeds[0])
        return []
    found: dict[str, dict[str, Any]] = {}
    if space.search == "grid":
        for axes in space.axes:
            for values in itertools.product(*(_grid_values(axis) for axis in axes.values())):
                point = dict(zip(axes, values, strict=True))
                found.setdefault(trial_name(trial_experiment(base, point, space.seeds[0])), point)
        return list(found.values())
    generator = np.random.default_rng(base.seed)
    for _ in range(1000 * (space.samples or 1)):
        point = point_from(space.axes[0], generator.random)
        if point is not None:
            found.setdefault(trial_name(trial_experiment(base, point, space.seeds[0])), point)
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
    """The point of a Bayesian search's draw: a number in [0, 1] for a range and for each kind of a mix, a place in a list."""
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
    """A name that depends on what is trained alone: the same training is one trial, however it was asked for."""
    tree = experiment.model_dump(mode="json", exclude={"out", "store", "prepare", "index", "serve", "evaluate"})
    tree["batch"].pop("alpha")
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


def _explain(error: Any, origin: str) -> str:
    path = ".".join(str(part) for part in error["loc"] if part not in (0, "values", "range", "simplex", "[key]"))
    if error["type"] == "extra_forbidden":
        return f"unknown key {path!r} in a search space ({origin}); known: {', '.join(Space.model_fields)}"
    if error["loc"][-1:] == ("values",):
        found = f", got {error['input']!r:.80}"
        return f"{path}: give a list of values, a range {{low, high}}, or {{simplex: [kinds]}}{found} ({origin})"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if error["type"] in ("missing", "value_error") else f", got {error['input']!r:.80}"
    return f"{path or 'space'}: {message[0].lower() + message[1:]}{shown} ({origin})"
