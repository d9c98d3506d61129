"""What a search can ask besides: good hits only. The same from any cut of the passages and in both placements."""

from __future__ import annotations

import math
import pickle

import pytest
from indices import sample_passages, write_served_index
from starlette.testclient import TestClient

from hybrid_ir.client import SearchClient
from hybrid_ir.config.experiment import Serve
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.serving.api import SearchResponse
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.ray_serve.replicas import ShardReplica
from hybrid_ir.serving.search_service import SearchService

pytestmark = pytest.mark.numbers

LOCAL = "http://localhost"
SETTINGS = Serve(max_k=200, max_queries=5, max_batch=4)
PASSAGES = [
    *sample_passages(),
    *(IndexedPassage(f"same/{n}", "One text, five times.", "en", {"year": 1999}) for n in range(5)),
]
CUTS = {
    ("Flat", 1): "language",
    ("Flat", 3): "random",
    ("IVF4,SQ8", 1): "language",
    ("IVF4,SQ8", 3): "random",
}


class Replicas(LocalRelease):
    """A LocalRelease whose shards are those of the distributed placement; what passes between is pickled, as by Ray."""

    def __init__(self, index):
        super().__init__(index)
        self._replicas = [ShardReplica(index, None, n, 1) for n in range(len(self.manifest.shards))]

    async def search(self, shard, vectors, queries):
        return await self._call(shard, "search", vectors, list(queries))

    async def read(self, shard, rows):
        return await self._call(shard, "read", list(rows))

    async def _call(self, shard, method, *arguments):
        answer = await getattr(self._replicas[shard], method)(*pickle.loads(pickle.dumps(arguments)))
        return pickle.loads(pickle.dumps(answer))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{(codec, shards): an index}: the same 125 passages, five of which are one text, cut in several ways."""
    made = {}
    for (codec, shards), sharding in CUTS.items():
        made[codec, shards] = tmp_path_factory.mktemp("options") / "index"
        write_served_index(made[codec, shards], PASSAGES, codec=codec, shards=shards, sharding=sharding)
    return made


@pytest.fixture(scope="module")
def services(folders):
    """{(codec, shards, placement): a client of a service}."""
    placements = {"local": LocalRelease, "distributed": Replicas}
    return {
        (*cut, name): TestClient(create_app(SearchService(release(str(folder)), SETTINGS)), base_url=LOCAL)
        for cut, folder in folders.items()
        for name, release in placements.items()
    }


@pytest.fixture
def http(services):
    with services["Flat", 3, "local"] as client:
        yield client


def search(http, query="river number 7", **body):
    answer = http.post("/search", json={"query": query, **body})
    assert answer.status_code == 200, answer.text
    SearchResponse.model_validate_json(answer.content)
    return answer.json()


def hits(answer, place=0):
    return [(hit["doc_id"], hit["score"]) for hit in answer["results"][place]["hits"]]


# Good hits only


def test_hits_below_the_least_score_are_left_out_and_those_that_have_it_stay(services):
    for client in services.values():
        found = hits(search(client, k=10))
        fourth = found[3][1]
        kept = [(doc_id, score) for doc_id, score in found if score >= fourth]
        assert hits(search(client, k=10, min_score=fourth)) == kept
        above = [(doc_id, score) for doc_id, score in found if score > fourth]
        assert hits(search(client, k=10, min_score=math.nextafter(fourth, 2))) == above
        assert hits(search(client, k=10, min_score=-1)) == found
    assert hits(search(client, ["river", "One text, five times."], min_score=1)) == []


# The client


@pytest.fixture
def client(http):
    """A SearchClient of the service in this process."""
    client = SearchClient(LOCAL)
    client._http = http
    return client


def test_the_client_asks_for_it_all(http, client):
    found = hits(search(http, k=10))
    assert hits(client.search("river number 7", min_score=found[2][1])) == found[:3]
