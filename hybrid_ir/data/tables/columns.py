"""Columns of a store's partitions: which hold lists of texts, and what they must be.

In: Arrow arrays, as they were read. Out: Python values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

TEXTS = pa.list_(pa.string())
DAMAGE = (OSError, ValueError, KeyError, IndexError, pa.ArrowException)
"""What pyarrow raises for a file whose bytes have changed: ValueError is a name in its footer that is not UTF-8."""


def holds_lists(column: str) -> bool:
    """Whether a column has passages or negatives, of which a group may have several in a language."""
    return column.startswith(("p_", "n_"))


def values_of(array: pa.Array) -> list[Any]:
    """The texts of a column, or its lists of texts: much faster than their own `to_pylist`."""
    if array.type != TEXTS:
        return array.to_pylist()
    texts, ends = array.flatten().to_pylist(), np.cumsum(array.value_lengths().to_numpy()).tolist()
    return [texts[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def check_column(array: pa.Array, column: str, rows: int) -> None:
    """Raises ValueError for what is not `rows` texts, or lists of texts where those may be."""
    lists = holds_lists(column) and array.type == TEXTS
    if not (lists or array.type == pa.string()) or array.null_count or len(array) != rows:
        raise ValueError(f"{column} has {len(array)} values of {array.type}, not {rows} texts")
    if lists and (array.flatten().null_count or not array.value_lengths().to_numpy().all()):
        raise ValueError(f"{column} has a list without a text")
