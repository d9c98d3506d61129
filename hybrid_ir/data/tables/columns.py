"""Columns of a store's partitions: which hold lists of texts, which a teacher's numbers, and what they must be.

In: Arrow arrays, as they were read. Out: Python values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

TEXTS = pa.list_(pa.string())
VECTORS, SCORES = pa.list_(pa.float16()), pa.list_(pa.float32())
"""A teacher's numbers of a row: the vectors of its texts, end to end, or a score of each text."""
DAMAGE = (OSError, ValueError, KeyError, IndexError, pa.ArrowException)
"""What pyarrow raises for a file whose bytes have changed: ValueError is a name in its footer that is not UTF-8."""


def holds_lists(column: str) -> bool:
    """Whether a column has passages or negatives, of which a group may have several in a language."""
    return column.startswith(("p_", "n_"))


def is_taught(column: str) -> bool:
    """Whether a column is a teacher's: tq_xx, tp_xx, tn_xx of vectors; tp_xx_yy, tn_xx_yy of scores."""
    return column.startswith(("tq_", "tp_", "tn_"))


def values_of(array: pa.Array) -> list[Any]:
    """The texts of a column, its lists of texts, or arrays of a teacher's numbers: much faster than their own
    `to_pylist`."""
    if array.type not in (TEXTS, VECTORS, SCORES):
        return array.to_pylist()
    flat, ends = array.flatten(), np.cumsum(array.value_lengths().to_numpy()).tolist()
    values = flat.to_pylist() if array.type == TEXTS else flat.to_numpy()
    return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def check_column(array: pa.Array, column: str, rows: int) -> None:
    """Raises ValueError for what is not `rows` texts, or lists of texts or numbers where those may be."""
    if is_taught(column):
        if array.type not in (VECTORS, SCORES) or array.null_count or len(array) != rows or array.flatten().null_count:
            raise ValueError(f"{column} has {len(array)} values of {array.type}, not {rows} lists of numbers")
        return
    lists = holds_lists(column) and array.type == TEXTS
    if not (lists or array.type == pa.string()) or array.null_count or len(array) != rows:
        raise ValueError(f"{column} has {len(array)} values of {array.type}, not {rows} texts")
    if lists and (array.flatten().null_count or not array.value_lengths().to_numpy().all()):
        raise ValueError(f"{column} has a list without a text")
