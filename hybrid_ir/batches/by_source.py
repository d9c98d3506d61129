"""A store's partitions by source. In: a store, partitions of it. Out: partitions of one source each; rows of the store.

The rows of one source lie among those of others, as they were shuffled. Row n of its partition is the n-th of them, and
how many lie before each block is counted once: so a row is found by reading the ids of one block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybrid_ir.batches.plan import BatchPlan
from hybrid_ir.data import ROWS_PER_BLOCK, Partition, Store


def partitions_by_source(store: Store, partitions: Sequence[Partition]) -> tuple[Partition, ...]:
    """Each of these partitions of a store as one a source that it has groups of, named PARTITION/SOURCE.

    Reads the ids of all groups. Raises InputError for a group whose source the store does not name.
    """
    found = []
    for number, partition in enumerate(store.partitions):
        if partition not in partitions:
            continue
        blocks = range(-(-partition.rows // ROWS_PER_BLOCK))
        counts = [np.bincount(store.sources_of(number, block), minlength=len(store.sources)) for block in blocks]
        before = np.cumsum([np.zeros(len(store.sources), dtype=np.int64), *counts], axis=0)
        found += [
            Partition(
                f"{partition.name}/{source}",
                partition.languages,
                int(before[-1, which]),
                partition.negatives,
                partition.most_negatives,
                source=source,
                rows_before=before[:-1, which],
            )
            for which, source in enumerate(store.sources)
            if before[-1, which]
        ]
    return tuple(found)


def rows_in_store(plan: BatchPlan, partitions: Sequence[Partition], store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Where the rows of a batch are: the number of each row's partition in the store, and its row there, both (B,).

    `partitions` are the plan's: the store's own, or those of `partitions_by_source`.
    """
    numbers = {p.name: i for i, p in enumerate(store.partitions)}
    partition_B, row_B = np.empty_like(plan.partition_B), plan.row_B.copy()
    for which in np.unique(plan.partition_B):
        here = np.flatnonzero(plan.partition_B == which)
        partition = partitions[which]
        number = partition_B[here] = numbers[partition.name.partition("/")[0]]
        if partition.source is None or partition.rows_before is None:
            continue
        source = store.sources.index(partition.source)
        block_of = np.searchsorted(partition.rows_before, row_B[here], side="right") - 1
        for block in np.unique(block_of):
            rows = here[block_of == block]
            own = np.flatnonzero(store.sources_of(number, int(block)) == source)
            row_B[rows] = block * ROWS_PER_BLOCK + own[row_B[rows] - partition.rows_before[block]]
    return partition_B, row_B
