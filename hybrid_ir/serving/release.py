"""A release: one index with its encoder, checked and open for searching. What is served, swapped and rolled back.

In: texts, vectors and rows. Out: vectors, candidates and passages. `LocalRelease` does this in one process and
`DistributedRelease` over Serve handles. No torch here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from hybrid_ir.index import Found, IndexedPassage, Manifest, ShardQuery, Stored
from hybrid_ir.lexical import Statistics


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
    statistics: Statistics | None
    """Counts of words, which a lexical search is weighed by; None in an index that has none."""

    async def encode(self, texts: Sequence[str], role: str) -> Encoded:
        """`role` is query, document, or the name of another of the encoder's prompts. Raises ShardDown."""
        ...

    async def search(self, shard: int, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> ShardAnswer:
        """Raises ShardDown."""
        ...

    async def read(self, shard: int, rows: Sequence[int]) -> list[IndexedPassage]:
        """Raises ShardDown."""
        ...

    async def labels(self, shard: int, rows: Sequence[int], key: str) -> list[tuple[str, str | None]]:
        """(doc_id, JSON of the value of a metadata key or None) of each row. Raises ShardDown."""
        ...

    async def find(self, shard: int, doc_id: str) -> Stored | None:
        """The passage with this doc_id, if the shard has it. Raises ShardDown."""
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


async def find_in_shards(release: Release, doc_id: str, timeout_s: float) -> tuple[int, Stored] | None:
    """The passage with this doc_id, and the number of the shard that has it, as soon as that one has answered.

    Raises ShardDown if a shard that may have it does not answer, or not in time.
    """
    numbers = {asyncio.create_task(release.find(n, doc_id)): n for n in range(len(release.manifest.shards))}
    end = asyncio.get_running_loop().time() + timeout_s
    waiting, silent = set(numbers), []
    try:
        while waiting:
            left = end - asyncio.get_running_loop().time()
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                silent += waiting
                break
            for task in done:
                if isinstance(task.exception(), ShardDown):
                    silent.append(task)
                elif (stored := task.result()) is not None:
                    return numbers[task], stored
    finally:
        for task in waiting:
            task.cancel()
    if silent:
        names = sorted(release.manifest.shards[numbers[task]].name for task in silent)
        raise ShardDown(f"shards {', '.join(names)} do not answer, and no other has this passage")
    return None
