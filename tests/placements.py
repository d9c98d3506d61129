"""Services of small indices in this process, in both placements."""

from __future__ import annotations

import pickle

from starlette.testclient import TestClient

from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.ray_serve.replicas import ShardReplica
from hybrid_ir.serving.search_service import SearchService

LOCAL = "http://localhost"


class Replicas(LocalRelease):
    """A LocalRelease whose shards are those of the distributed placement; what passes between is pickled, as by Ray."""

    def __init__(self, index):
        super().__init__(index)
        self._replicas = [ShardReplica(index, None, n, 1) for n in range(len(self.manifest.shards))]

    async def search(self, shard, vectors, queries):
        return await self._call(shard, "search", vectors, list(queries))

    async def read(self, shard, rows):
        return await self._call(shard, "read", list(rows))

    async def labels(self, shard, rows, key):
        return await self._call(shard, "labels", list(rows), key)

    async def find(self, shard, doc_id):
        return await self._call(shard, "find", doc_id)

    async def _call(self, shard, method, *arguments):
        answer = await getattr(self._replicas[shard], method)(*pickle.loads(pickle.dumps(arguments)))
        return pickle.loads(pickle.dumps(answer))


def clients_of(folders, settings):
    """{(*cut, placement): a client of a service} for {cut: folder of an index}."""
    placements = {"local": LocalRelease, "distributed": Replicas}
    return {
        (*cut, name): TestClient(create_app(SearchService(release(str(folder)), settings)), base_url=LOCAL)
        for cut, folder in folders.items()
        for name, release in placements.items()
    }
