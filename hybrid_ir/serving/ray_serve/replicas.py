"""What Serve runs beside the gateway: the encoder, the reranker, and each shard, in processes of their own.

In: texts, or vectors with what is asked. Out: vectors, candidates, or scores. Who deploys these imports no torch, and
neither does a shard's process, which starts in a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np

from hybrid_ir.index import IndexedPassage, ShardQuery, Stored, read_manifest
from hybrid_ir.serving.kept_shard import KeptShard
from hybrid_ir.serving.one_thread import OneThread
from hybrid_ir.serving.release import Encoded, ShardAnswer
from hybrid_ir.serving.reranking.scorer import Scored


class ShardReplica:
    """One shard of an index."""

    def __init__(self, index: str, version: str | None, number: int, threads: int) -> None:
        self._thread = OneThread(faiss.omp_set_num_threads, threads)
        self._shard = KeptShard(index, read_manifest(index, version), number)

    async def search(self, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> ShardAnswer:
        return await self._thread.run(self._search, vectors, queries)

    async def read(self, rows: Sequence[int]) -> list[IndexedPassage]:
        return self._shard.get(reopen=False).read(rows)

    async def labels(self, rows: Sequence[int], key: str) -> list[tuple[str, str | None]]:
        return self._shard.get(reopen=False).labels(rows, key)

    async def find(self, doc_id: str) -> Stored | None:
        return await self._thread.run(self._find, doc_id)

    async def ping(self) -> None:
        """Asked by gateways. Raises Stuck, or ShardDown where its files have changed; it is opened again meanwhile."""
        self._thread.check()
        if self._shard.down:
            await self._thread.run(self._shard.get)

    async def check_health(self) -> None:
        """Asked by Serve, which starts another replica in place of one that is stuck."""
        self._thread.check()

    def _find(self, doc_id: str) -> Stored | None:
        return self._shard.get().find(doc_id)

    def _search(self, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> ShardAnswer:
        shard = self._shard.get()
        found = shard.search(vectors, queries)
        # The likely hits' passages come along: a second call would cost more than their bytes.
        rows: set[int] = set()
        for query, one in zip(queries, found, strict=True):
            if query.texts:
                rows.update(one.rows[np.argsort(-one.scores, kind="stable")[: query.k]].tolist())
        ordered = sorted(rows)
        return found, dict(zip(ordered, shard.read(ordered), strict=True))


class EncoderReplica:
    """The encoder, when it has a deployment of its own."""

    def __init__(self, index: str, version: str | None, checkpoint: str | None, threads: int, precision: str) -> None:
        from hybrid_ir.serving.query_encoder import QueryEncoder

        self._thread = OneThread()
        self._encoder = self._thread.wait_for(
            QueryEncoder, index, read_manifest(index, version), checkpoint, threads, precision
        )

    async def encode(self, texts: Sequence[str], role: str) -> Encoded:
        return await self._thread.run(self._encoder, texts, role)

    async def ping(self) -> None:
        """Asked by gateways. Raises Stuck."""
        self._thread.check()

    async def check_health(self) -> None:
        """Asked by Serve, which starts another replica in place of one that is stuck."""
        self._thread.check()


class RerankerReplica:
    """The reranker, when it has a deployment of its own."""

    def __init__(self, source: str, max_tokens: int, threads: int) -> None:
        from hybrid_ir.serving.reranking.local_scorer import LocalScorer

        self._scorer = LocalScorer(source, max_tokens, threads)

    async def score(self, query: str, texts: Sequence[str]) -> Scored:
        return await self._scorer.score(query, texts)

    async def ping(self) -> None:
        """Asked by gateways. Raises Stuck."""
        self._scorer.check()

    async def check_health(self) -> None:
        """Asked by Serve, which starts another replica in place of one that is stuck."""
        self._scorer.check()
