"""Which values of which dotted paths a sweep tries, and with which seeds. In: YAML. Out: a checked `Space`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hybrid_ir.config import Section, read_mapping, validate
from hybrid_ir.tuning.axes import Axis, Range, Simplex


class Asha(Section):
    """Asynchronous successive halving (arXiv 1810.05934): of the trials that reach a rung, the best go on."""

    first: int = Field(ge=1)
    """Steps before the first rung; must fall on a validation."""
    factor: int = Field(default=3, ge=2)
    """One in so many goes on, and the rungs are so many times further apart."""


class Space(Section):
    search: Literal["grid", "random", "bayesian"] = "grid"
    """grid: every combination; random: points drawn from the seed; bayesian: drawn from what the last ones scored."""
    samples: int | None = Field(default=None, ge=1)
    """Points that a random or Bayesian search tries; null = a grid, which tries all."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Each point is trained once with each of these."""
    axes: tuple[dict[str, Axis], ...]
    """Dotted paths (or `recipe`) and their values. A list of such mappings is tried one after another."""
    asha: Asha | None = None
    """Stop trials that fall behind; null = every trial runs to its end."""
    max_rank_distance: float | None = Field(default=None, gt=0)
    """The choice is the best AP_mean among points whose rank distance is below this; null = the best AP_mean."""

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
    return parse_space(read_mapping(file, "search space"), str(file))


def parse_space(tree: Mapping[str, Any], origin: str) -> Space:
    """Validate a space given as a nested mapping. `origin` is named in the error."""
    return validate(Space, tree, origin, "space", (0, "values", "range", "simplex"), _explain)


def _explain(error: Any, path: str) -> str | None:
    if error["type"] == "extra_forbidden":
        return f"unknown key {path!r} in a search space; known: {', '.join(Space.model_fields)}"
    if error["loc"][-1:] == ("values",):
        found = f", got {error['input']!r:.80}"
        return f"{path}: give a list of values, a range {{low, high}}, or {{simplex: [kinds]}}{found}"
    return None
