"""The pieces of an index's passages, counted for its manifest.

In: shards that are written. Out: how many vectors there are, of how many long passages, and who has how many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hybrid_ir.index.folder import ShardEntry
from hybrid_ir.index.pieces.entry import PiecesOf
from hybrid_ir.index.pieces.table import open_pieces
from hybrid_ir.index.tombstones import living_rows


def count_pieces(index: Path, shards: Sequence[ShardEntry], tokens: int, overlap: int) -> PiecesOf:
    """Of passages that are not deleted; `tokens` and `overlap` are how they were cut."""
    passages, long = Counter[int](), Counter[str]()
    for shard in shards:
        pieces, living = open_pieces(index / "shards" / shard.name, shard.rows), living_rows(index, shard)
        assert pieces is not None
        counts = pieces.counts if living is None else np.where(living, pieces.counts, 0)
        passages.update(dict(enumerate(np.bincount(counts).tolist())))
        for language, (start, end) in shard.languages.items():
            long[language] += int(np.count_nonzero(counts[start:end] > 1))
    del passages[0]  # those that are deleted
    by_size = dict(sorted((+passages).items()))
    return PiecesOf(
        tokens=tokens,
        overlap=overlap,
        vectors=sum(size * count for size, count in by_size.items()),
        most=max(by_size, default=1),
        long=dict(sorted((+long).items())),
        passages=by_size,
    )
