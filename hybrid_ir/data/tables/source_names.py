"""Which source a group is of. In: ids of groups, as a store has them. Out: the number of the source of each.

`prepare` puts the name of the source before the id that it read, in stores of every format: `lareqa:7`. A
name has no colon.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def sources_of(group_ids: pa.Array, names: Sequence[str]) -> np.ndarray:
    """For each group, the index of its source in `names`. Raises ValueError for a group of another one."""
    named = pc.list_element(pc.split_pattern(group_ids, pattern=":", max_splits=1), 0)  # type: ignore[attr-defined]
    numbers = pc.index_in(named, value_set=pa.array(names, pa.string()))  # type: ignore[attr-defined]
    if numbers.null_count:
        first = group_ids[pc.index(numbers.is_null(), True).as_py()].as_py()
        raise ValueError(f"group {first!r} is of none of its sources, which are {', '.join(names)}")
    return numbers.to_numpy()
