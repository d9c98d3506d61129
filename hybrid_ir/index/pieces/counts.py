"""What an index's manifest says of the pieces of its passages.

In: shards that are written. Out: how many vectors there are, of how many long passages, and the most that one has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hybrid_ir.index.folder import PiecesOf, ShardEntry
from hybrid_ir.index.pieces.table import open_pieces
from hybrid_ir.index.tombstones import living_rows


def count_pieces(index: Path, shards: Sequence[ShardEntry], tokens: int, overlap: int) -> PiecesOf:
    """Of passages that are not deleted; `tokens` and `overlap` are how they were cut."""
    vectors, most, long = 0, 1, Counter[str]()
    for shard in shards:
        pieces, living = open_pieces(index / "shards" / shard.name, shard.rows), living_rows(index, shard)
        assert pieces is not None
        counts = pieces.counts if living is None else np.where(living, pieces.counts, 0)
        vectors += int(counts.sum())
        most = max(most, int(counts.max()))
        for language, (start, end) in shard.languages.items():
            long[language] += int(np.count_nonzero(counts[start:end] > 1))
    return PiecesOf(tokens=tokens, overlap=overlap, vectors=vectors, most=most, long=dict(sorted((+long).items())))
