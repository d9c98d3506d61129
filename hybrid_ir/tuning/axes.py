"""The axes of a search space. In: a list of values, a range, or mixes. Out: values, on a grid or from uniform draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from hybrid_ir.config import KINDS, Kind, Section

Bounds = tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]


class Range(Section):
    """Numbers between `low` and `high`, both included."""

    low: float
    """The smallest."""
    high: float
    """The largest."""
    log: bool = False
    """Uniform in the logarithm, as learning rates want; false = uniform in the number."""
    integer: bool = False
    """Whole numbers alone; false = all of them, to six digits."""
    points: int | None = Field(default=None, ge=2)
    """Values that a grid search takes from it, evenly spaced; null = it is for other searches."""

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
    """Kind of batch -> the least and the greatest weight; a list of kinds = from 0 to 1 each."""
    step: float | None = Field(default=None, gt=0, le=1)
    """Distance between the weights of a grid search: 0.25 gives 15 mixes of three kinds. Null = for other searches."""

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
