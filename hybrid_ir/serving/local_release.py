"""A release in one process: no hop between encoder and shards.

In: an index folder. Out: a `Release`, its files checked and its encoder loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np

from hybrid_ir.index import Found, IndexedPassage, NearestLists, ShardQuery, Stored, read_manifest
from hybrid_ir.serving.kept_shard import KeptShard
from hybrid_ir.serving.one_thread import OneThread
from hybrid_ir.serving.query_encoder import QueryEncoder
from hybrid_ir.serving.release import Encoded, ShardAnswer
from hybrid_ir.storage import absolute


class LocalRelease:
    """Encoder and shards in this process: one thread encodes, one searches, so that batches overlap."""

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
    ) -> None:
        """Check every file, open the shards, load the encoder. Raises InputError that names what is wrong.

        With `may_lack_shards` it begins with those that can be opened, and says of the others that they are down.
        """
        self.index = absolute(index)
        self.manifest = read_manifest(index, version)
        nearest = NearestLists()
        self._shards = [
            KeptShard(index, self.manifest, n, may_be_down=may_lack_shards, nearest=nearest)
            for n in range(len(self.manifest.shards))
        ]
        self.key = f"{self.index}@{self.manifest.index_version}"
        self._encoding = OneThread()
        self._searching = OneThread(faiss.omp_set_num_threads, threads)
        self._encoder = self._encoding.wait_for(QueryEncoder, self.index, self.manifest, checkpoint, threads, precision)

    async def encode(self, texts: Sequence[str], role: str) -> Encoded:
        return await self._encoding.run(self._encoder, texts, role)

    async def search(self, shard: int, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> ShardAnswer:
        return await self._searching.run(self._search, shard, vectors, queries), {}

    async def read(self, shard: int, rows: Sequence[int]) -> list[IndexedPassage]:
        return self._shards[shard].get(reopen=False).read(rows)

    async def find(self, shard: int, doc_id: str) -> Stored | None:
        return await self._searching.run(self._find, shard, doc_id)

    def down(self) -> tuple[list[int], bool]:
        return [n for n, s in enumerate(self._shards) if self._searching.stuck or s.down], not self._encoding.stuck

    def check(self) -> None:
        self._encoding.check()
        self._searching.check()
        # Who is not ready is not asked, so that no search would open what has been mended.
        for shard in self._shards:
            if shard.down:
                self._searching.soon(shard.get)

    def close(self) -> None:
        self._encoding.close()
        self._searching.close()
        for shard in self._shards:
            shard.close()

    def _search(self, shard: int, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> list[Found]:
        return self._shards[shard].get().search(vectors, queries)

    def _find(self, shard: int, doc_id: str) -> Stored | None:
        return self._shards[shard].get().find(doc_id)
