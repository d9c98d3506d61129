"""A filter as one would write it down, a passage at a time, to hold the one over columns to."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hybrid_ir.index.filters.form import Absent, Filter, Item, OneOf
from hybrid_ir.index.passage_table import canonical

COMPARED = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def passes(item: Item, metadata: Mapping[str, Any]) -> bool:
    if isinstance(item, Filter):
        return (
            all(passes(each, metadata) for each in item.must)
            and not any(passes(each, metadata) for each in item.must_not)
            and (not item.should or any(passes(each, metadata) for each in item.should))
        )
    if item.key not in metadata:
        return isinstance(item, Absent)
    value = metadata[item.key]
    if isinstance(item, Absent):
        return False
    if isinstance(item, OneOf):
        return (canonical(value) in item.values) != item.negated
    if item.dates:
        number = moment(value) if isinstance(value, str) else None
    else:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    return number is not None and all(COMPARED[name](number, bound) for name, bound in item.bounds)


def moment(text: str) -> float | None:
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
