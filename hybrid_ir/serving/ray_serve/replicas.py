"""What Serve runs beside the gateway: the encoder, the reranker, and each shard, in processes of their own.

In: texts, or vectors with what is asked; and `carriers`, whose traces that is in, if there are any. Out: vectors,
candidates, or scores. Who deploys these imports no torch, and
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
from hybrid_ir.serving.tracing.spans import Answering, Carrier


class Replica:
    """What answers within traces, and sends the rest of them at its end."""

    _answering = Answering("", None)

    def __del__(self) -> None:
        """Serve calls it, and kills the process next."""
        self._answering.send_rest()


class ShardReplica(Replica):
    """One shard of an index."""

    def __init__(self, index: str, version: str | None, number: int, threads: int, traces: bool = False) -> None:
        self._thread = OneThread(faiss.omp_set_num_threads, threads)
        manifest = read_manifest(index, version)
        self._shard = KeptShard(index, manifest, number)
        self._answering = answering(f"shard-{manifest.shards[number].name}", traces)

    async def search(
        self, vectors: np.ndarray, queries: Sequence[ShardQuery], carriers: Sequence[Carrier] = ()
    ) -> ShardAnswer:
        with self._answering("search", carriers):
            return await self._thread.run(self._search, vectors, queries)

    async def read(self, rows: Sequence[int], carriers: Sequence[Carrier] = ()) -> list[IndexedPassage]:
        with self._answering("read", carriers):
            return self._shard.get(reopen=False).read(rows)

    async def labels(
        self, rows: Sequence[int], key: str, carriers: Sequence[Carrier] = ()
    ) -> list[tuple[str, str | None]]:
        with self._answering("labels", carriers):
            return self._shard.get(reopen=False).labels(rows, key)

    async def find(self, doc_id: str, carriers: Sequence[Carrier] = ()) -> Stored | None:
        with self._answering("find", carriers):
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


class EncoderReplica(Replica):
    """The encoder, when it has a deployment of its own."""

    def __init__(
        self,
        index: str,
        version: str | None,
        checkpoint: str | None,
        threads: int,
        precision: str,
        traces: bool = False,
    ) -> None:
        from hybrid_ir.serving.query_encoder import QueryEncoder

        self._thread = OneThread()
        self._answering = answering("encoder", traces)
        self._encoder = self._thread.wait_for(
            QueryEncoder, index, read_manifest(index, version), checkpoint, threads, precision
        )

    async def encode(self, texts: Sequence[str], role: str, carriers: Sequence[Carrier] = ()) -> Encoded:
        with self._answering("encode", carriers):
            return await self._thread.run(self._encoder, texts, role)

    async def ping(self) -> None:
        """Asked by gateways. Raises Stuck."""
        self._thread.check()

    async def check_health(self) -> None:
        """Asked by Serve, which starts another replica in place of one that is stuck."""
        self._thread.check()


class RerankerReplica(Replica):
    """The reranker, when it has a deployment of its own."""

    def __init__(self, source: str, max_tokens: int, threads: int, traces: bool = False) -> None:
        from hybrid_ir.serving.reranking.local_scorer import LocalScorer

        self._scorer = LocalScorer(source, max_tokens, threads)
        self._answering = answering("reranker", traces)

    async def score(self, query: str, texts: Sequence[str], carriers: Sequence[Carrier] = ()) -> Scored:
        with self._answering("score", carriers):
            return await self._scorer.score(query, texts)

    async def ping(self) -> None:
        """Asked by gateways. Raises Stuck."""
        self._scorer.check()

    async def check_health(self) -> None:
        """Asked by Serve, which starts another replica in place of one that is stuck."""
        self._scorer.check()


def answering(part: str, traces: bool) -> Answering:
    """The spans of a replica, none unless `traces` asks for them. Raises InputError where they could not be sent."""
    if not traces:
        return Answering(part, None)
    from hybrid_ir.serving.tracing.exporting import tracer_of

    return Answering(part, tracer_of(part))
