"""Builds in this one process: what Ray would run on many is called in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hybrid_ir.index import ray_stages


class _Dataset:
    def __init__(self, items: list[dict[str, int]]) -> None:
        self._items, self._stage = items, None

    def map_batches(self, stage: Any, *, fn_constructor_args: Any = (), **_: Any) -> _Dataset:
        self._stage = stage(*fn_constructor_args) if isinstance(stage, type) else stage
        return self

    def rows(self) -> Iterator[dict[str, Any]]:
        assert self._stage is not None
        for item in self._items:
            done = self._stage({name: np.asarray([value]) for name, value in item.items()})
            yield {name: values[0] for name, values in done.items()}


def without_ray(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ray_stages.ray, "put", lambda value: value)
    patch.setattr(ray_stages.ray, "get", lambda value: value)
    patch.setattr(ray_stages, "_dataset", _Dataset)
    patch.setattr(ray_stages, "_rows", lambda dataset: dataset().rows())
