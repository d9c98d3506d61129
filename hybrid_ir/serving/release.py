"""A release: one index with its encoder, checked and open for searching. What is served, swapped and rolled back.

In: texts, vectors and rows. Out: vectors, candidates and passages. `LocalRelease` does this in one process and
`DistributedRelease` over Serve handles. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from hybrid_ir.index import Found, IndexedPassage, Manifest, ShardQuery


class ShardDown(Exception):
    """A shard, or the encoder, does not answer."""


class Stuck(Exception):
    """What computes has been at one thing for longer than anybody waits."""


class Encoded(NamedTuple):
    """Q texts as the encoder read them."""

    vectors: np.ndarray
    """(Q, D) float32, unit length."""
    tokens: np.ndarray
    """(Q,) integers: tokens of each text, its prefix included."""
    cut: np.ndarray
    """(Q,) bool: whether the text was longer than the encoder reads."""


class Release(Protocol):
    """What the service needs of an index and its encoder. Q queries, D dimensions."""

    index: str
    key: str
    """Folder and version: what tells releases apart."""
    manifest: Manifest
    placement: str

    async def encode(self, texts: Sequence[str], role: str) -> Encoded:
        """`role` is query or document. Raises ShardDown."""
        ...

    async def search(self, shard: int, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> ShardAnswer:
        """Raises ShardDown."""
        ...

    async def read(self, shard: int, rows: Sequence[int]) -> list[IndexedPassage]:
        """Raises ShardDown."""
        ...

    def down(self) -> tuple[list[int], bool]:
        """Numbers of the shards that do not answer, and whether the encoder does."""
        ...

    def check(self) -> None:
        """Raises Stuck if what computes in this process does not come back."""
        ...

    def close(self) -> None: ...


ShardAnswer = tuple[list[Found], dict[int, IndexedPassage]]
"""Candidates of each query, and the passages of likely hits by their rows (local: none, they are at hand)."""
