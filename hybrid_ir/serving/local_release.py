"""A release in one process: no hop between encoder and shards.

In: an index folder. Out: a `Release`, its files checked and its encoder loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import faiss
import numpy as np

from hybrid_ir.encoders import best_device
from hybrid_ir.index import Found, IndexedPassage, NearestLists, ShardQuery, Stored, open_statistics, read_manifest
from hybrid_ir.serving.kept_shard import KeptShard
from hybrid_ir.serving.one_thread import OneThread
from hybrid_ir.serving.query_encoder import QueryEncoder
from hybrid_ir.serving.release import Encoded, ShardAnswer
from hybrid_ir.storage import absolute

TOGETHER = 4
"""Queries of one call to the encoder, where there are as many: fewer take it almost as long."""


class LocalRelease:
    """Encoder and shards in this process. What encodes and what searches has threads of its own, so that batches
    overlap."""

    placement = "local"

    def __init__(
        self,
        index: str,
        version: str | None = None,
        *,
        checkpoint: str | None = None,
        threads: int = 1,
        may_lack_shards: bool = False,
        precision: str = "fp32",
        like: LocalRelease | None = None,
    ) -> None:
        """Check every file, open the shards, load the encoder. Raises InputError that names what is wrong. Of a release
        `like` it, another version of one index, the encoder is taken: it need not be loaded again.

        With `may_lack_shards` it begins with those that can be opened, and says of the others that they are down.
        """
        self.index = absolute(index)
        self.manifest = read_manifest(index, version)
        nearest = NearestLists()
        self._shards = [
            KeptShard(index, self.manifest, n, may_be_down=may_lack_shards, nearest=nearest)
            for n in range(len(self.manifest.shards))
        ]
        self.statistics = open_statistics(index, self.manifest)
        self.key = f"{self.index}@{self.manifest.index_version}"
        self._threads = threads
        self._searching = OneThread()
        self._encoding = [OneThread() for _ in range(threads if best_device() == "cpu" else 1)]
        # The space does not tell the prompts of tasks apart, and a folder that was built again may have others.
        space = self.manifest.space
        self._read_by = (self.index, space["id"], space.get("prompts"), checkpoint, precision)
        if like is not None and like._read_by == self._read_by:
            self._encoder = like._encoder
        else:
            self._encoder = self._encoding[0].wait_for(
                QueryEncoder, self.index, self.manifest, checkpoint, threads, precision
            )

    async def encode(self, texts: Sequence[str], role: str) -> Encoded:
        """Many texts are split among calls of one thread each, and few take all threads together. OpenMP's threads wait
        for each other at the end of each product, and keep their cores busy meanwhile: two fifths of two cores' time
        (measured)."""
        calls = min(len(self._encoding), max(1, len(texts) // TOGETHER))
        parts = [part.tolist() for part in np.array_split(np.arange(len(texts)), calls)]
        threads = self._threads if len(parts) == 1 else 1
        each = [
            thread.run(self._encoder, [texts[i] for i in part], role, threads)
            for thread, part in zip(self._encoding, parts, strict=False)
        ]
        return Encoded(*map(np.concatenate, zip(*await asyncio.gather(*each), strict=True)))

    async def search(self, shard: int, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> ShardAnswer:
        return await self._searching.run(self._search, shard, vectors, queries), {}

    async def read(self, shard: int, rows: Sequence[int]) -> list[IndexedPassage]:
        return self._shards[shard].get(reopen=False).read(rows)

    async def labels(self, shard: int, rows: Sequence[int], key: str) -> list[tuple[str, str | None]]:
        return self._shards[shard].get(reopen=False).labels(rows, key)

    async def find(self, shard: int, doc_id: str) -> Stored | None:
        return await self._searching.run(self._find, shard, doc_id)

    def down(self) -> tuple[list[int], bool]:
        missing = [n for n, s in enumerate(self._shards) if self._searching.stuck or s.down]
        return missing, not any(thread.stuck for thread in self._encoding)

    def check(self) -> None:
        for thread in (*self._encoding, self._searching):
            thread.check()
        # Who is not ready is not asked, so that no search would open what has been mended.
        for shard in self._shards:
            if shard.down:
                self._searching.soon(shard.get)

    def close(self) -> None:
        for thread in (*self._encoding, self._searching):
            thread.close()
        for shard in self._shards:
            shard.close()

    def _search(self, shard: int, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> list[Found]:
        # Several queries are a service under load, which needs a core for its answers.
        faiss.omp_set_num_threads(self._threads if len(queries) < TOGETHER else max(1, self._threads - 1))
        return self._shards[shard].get().search(vectors, queries)

    def _find(self, shard: int, doc_id: str) -> Stored | None:
        return self._shards[shard].get().find(doc_id)
