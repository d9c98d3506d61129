"""The queues of one release: texts whose vectors are known, texts that are not, pages, and stored vectors.

In: a text with its prompt, or a vector, with all that is asked of the shards for it. Out: its searches, once they have
begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np

from hybrid_ir.config import Serve
from hybrid_ir.index import ShardQuery, is_flat
from hybrid_ir.serving.batcher import Batcher, Observe, Started
from hybrid_ir.serving.query_cache import QueryCache, Text
from hybrid_ir.serving.release import Encoded, Release
from hybrid_ir.serving.searching.counted import Counted


class Serving:
    """A release with its queues."""

    def __init__(self, release: Release, settings: Serve, observe: Observe, cache: QueryCache) -> None:
        self.release, self._cache = release, cache
        encode = partial(cache.encode, release)
        self._new: Batcher[Text] = Batcher(release, encode, settings.max_batch, observe)
        # Queries whose vectors are known do not wait for a forward pass over those of others.
        self._known: Batcher[Text] = Batcher(release, encode, settings.max_batch, observe)
        # Pages must come from one order, so their query has the same vector at each, whoever else asks.
        self._paged = Batcher(release, partial(encode, alone=True), settings.max_batch, observe)
        self._stored = Batcher(release, _stack, settings.max_batch, observe)
        self.embedding = 0  # inputs of /v1/embeddings that wait
        self._by_words = Counted(settings.max_queue, "lexical searches are on their way already; ask again in a second")
        self.lossy = not is_flat(release.manifest.codec)

    @property
    def waiting(self) -> int:
        return len(self._new) + len(self._known) + len(self._paged) + len(self._stored) + self.embedding

    def waited_s(self) -> float:
        return max(self._new.waited_s(), self._known.waited_s(), self._paged.waited_s())

    def submit(self, text: Text, queries: Sequence[ShardQuery], page: bool = False) -> asyncio.Future[Started]:
        """`page`: whether what is asked is cut from an order that other requests go on with."""
        if page:
            return self._paged.submit(text, queries)
        batcher = self._known if self._cache.holds(self.release, text) else self._new
        return batcher.submit(text, queries)

    def searching_words(self, queries: int) -> AbstractContextManager[None]:
        """Meanwhile so many queries are searched for by words. Raises RequestError where too many are.

        They are counted from their beginning: they wait in threads before they are in a queue, and no encoder holds
        them up there.
        """
        return self._by_words.during(queries)

    def submit_words(self, text: Text, queries: Sequence[ShardQuery], page: bool = False) -> asyncio.Future[Started]:
        """As `submit`; where all `queries` are by words, nothing is encoded."""
        if all(query.words is not None for query in queries):
            return self._stored.submit(np.zeros(self.release.manifest.space["dimension"], np.float32), queries)
        return self.submit(text, queries, page)

    def submit_vector(self, vector: np.ndarray, queries: Sequence[ShardQuery]) -> asyncio.Future[Started]:
        return self._stored.submit(vector, queries)


async def _stack(vectors: Sequence[np.ndarray]) -> Encoded:
    """Vectors of stored passages, as if they had been encoded."""
    return Encoded(np.stack(vectors), np.zeros(len(vectors), np.int64), np.zeros(len(vectors), bool))
