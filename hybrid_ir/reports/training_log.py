"""The log of a training. In: the `log.jsonl` of a run folder. Out: its rows by step, and curves of one key of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.storage import open_filesystem

Log = Sequence[Mapping[str, Any]]
Curve = tuple[list[float], list[float]]
"""Steps, values."""


def read_log(path: str | Path) -> list[dict[str, Any]] | None:
    """Rows of a run's log; None when there is none. A resumed run's log may hold a step twice: the last counts."""
    filesystem, inner = open_filesystem(str(path))
    if not filesystem.get_file_info(inner).is_file:
        return None
    rows: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in filesystem.open_input_stream(inner).read().decode("utf-8", "replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that a killed run was in the middle of
        rows[row["step"], "loss" in row] = row
    return [rows[key] for key in sorted(rows)]


def curve_of(log: Log, key: str) -> Curve:
    """The steps that logged a finite `key`, and its values."""
    rows = [(row["step"], row[key]) for row in log if row.get(key) is not None and math.isfinite(row[key])]
    return [step for step, _ in rows], [value for _, value in rows]


def smooth(values: Sequence[float]) -> list[float]:
    """Mean over a window of a twentieth of the values around each, so that the curve does not lag behind a fall."""
    window = np.ones(1 + len(values) // 40 * 2)
    return (np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")).tolist()
