"""A release in one process: no hop between encoder and shards.

In: an index folder. Out: a `Release`, its files checked and its encoder loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np

from hybrid_ir.index import IndexedPassage, Shard, ShardQuery, check_files, open_shard, read_manifest
from hybrid_ir.serving.query_encoder import QueryEncoder
from hybrid_ir.serving.release import ShardAnswer
from hybrid_ir.storage import absolute


class LocalRelease:
    """Encoder and shards in this process: one thread encodes, one searches, so that batches overlap."""

    placement = "local"

    def __init__(self, index: str, *, checkpoint: str | None = None, threads: int = 1) -> None:
        """Check every file, open the shards, load the encoder. Raises InputError that names what is wrong."""
        self.index = absolute(index)
        self.manifest = read_manifest(index)
        check_files(index, self.manifest.files)
        self._shards: list[Shard] = [open_shard(index, self.manifest, n) for n in range(len(self.manifest.shards))]
        # The encoder is loaded in the thread that runs it: how many threads torch may use is set by thread.
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._searching = ThreadPoolExecutor(
            1, thread_name_prefix="search", initializer=faiss.omp_set_num_threads, initargs=(threads,)
        )
        arguments = (self.index, self.manifest, checkpoint, threads)
        self._encoder = self._encoding.submit(QueryEncoder, *arguments).result()

    async def encode(self, texts: Sequence[str], role: str) -> np.ndarray:
        return await _in(self._encoding, self._encoder, texts, role)

    async def embed(self, texts: Sequence[str], role: str) -> tuple[np.ndarray, int]:
        return await _in(self._encoding, self._encoder.embed, texts, role)

    async def search(self, shard: int, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> ShardAnswer:
        return await _in(self._searching, self._shards[shard].search, vectors, queries), {}

    async def read(self, shard: int, rows: Sequence[int]) -> list[IndexedPassage]:
        return self._shards[shard].read(rows)

    def down(self) -> tuple[list[int], bool]:
        return [], True

    def close(self) -> None:
        self._encoding.shutdown(wait=False)
        self._searching.shutdown(wait=False)


async def _in(executor: Executor, function: Any, *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
