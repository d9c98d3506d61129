"""Queries that are asked again: what the cache answers, what it never answers, and what it may take."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from indices import sample_passages, write_served_index
from starlette.testclient import TestClient

from hybrid_ir.config.experiment import Serve
from hybrid_ir.index.query import ShardQuery
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.query_cache import QueryCache, Text
from hybrid_ir.serving.ray_serve.gateway_metrics import GatewayMetrics
from hybrid_ir.serving.release import Encoded, ShardDown
from hybrid_ir.serving.search_service import SearchService


class CountingRelease:
    """Its encoder gives the k-th text that it is asked for the vector (k, number of its characters), as many tokens
    as the text has characters, and cuts behind the tenth. `asked` has the batches."""

    index, key, placement = "index", "index@1", "local"

    def __init__(self, space: str = "space") -> None:
        shard = SimpleNamespace(name="000", languages={"en": (0, 1)}, rows=1)
        self.manifest: Any = SimpleNamespace(space={"id": space}, shards=[shard], codec="Flat", index_version="1")
        self.asked: list[list[str]] = []
        self.gate: asyncio.Event | None = None
        self.down = False

    async def encode(self, texts, role):
        assert role == "query"
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise ShardDown("encoder")
        texts = [text.strip() for text in texts]  # as encoders read them
        before = sum(map(len, self.asked))
        self.asked.append(texts)
        lengths = np.array([len(text) for text in texts])
        numbers = before + 1 + np.arange(len(texts))
        return Encoded(np.stack([numbers, lengths], axis=1).astype(np.float32), lengths, lengths > 10)


def cache_of(entries: int) -> tuple[QueryCache, list[tuple[str, float]]]:
    """The cache, and the hits and misses that it observes."""
    seen: list[tuple[str, float]] = []

    def observe(name: str, value: float, labels: dict[str, str]) -> None:
        if name.startswith("query_cache"):
            seen.append((name.removeprefix("query_cache_"), value))

    return QueryCache(entries, observe), seen


def encoded(cache: QueryCache, release: Any, *texts: str) -> Encoded:
    return asyncio.run(cache.encode(release, [*map(Text, texts)]))


def test_a_query_that_is_asked_again_has_its_first_vector_tokens_and_cut_and_costs_no_encoding():
    release, (cache, seen) = CountingRelease(), cache_of(10)
    first = encoded(cache, release, "river", "a longer river")
    again = encoded(cache, release, "a longer river", "new", "river")
    assert release.asked == [["river", "a longer river"], ["new"]]
    assert first.vectors.tolist() == [[1, 5], [2, 14]]
    assert again.vectors.tolist() == [[2, 14], [3, 3], [1, 5]]
    assert again.vectors.dtype == np.float32
    assert (again.tokens.tolist(), again.cut.tolist()) == ([14, 3, 5], [True, False, False])
    assert seen == [("misses", 2), ("hits", 2), ("misses", 1)]


def test_equal_texts_of_one_batch_are_encoded_once_and_space_around_a_text_is_no_part_of_it():
    for entries in (10, 0):  # also where none is kept
        release, (cache, seen) = CountingRelease(), cache_of(entries)
        answer = encoded(cache, release, "a", "b", "a", " a\n")
        assert release.asked == [["a", "b"]]
        assert answer.vectors.tolist() == [[1, 1], [2, 1], [1, 1], [1, 1]]
        assert answer.tokens.tolist() == [1, 1, 1, 1]
        assert seen == [("hits", 2), ("misses", 2)]


def test_the_query_that_was_asked_the_longest_ago_leaves_first():
    release, (cache, _) = CountingRelease(), cache_of(2)
    for text in ("a", "b", "a", "c"):  # a is asked again, so b leaves for c
        encoded(cache, release, text)
    assert [cache.holds(release, Text(text)) for text in "abc"] == [True, False, True]  # type: ignore[arg-type]
    encoded(cache, release, "v", "w", "x", "y", "z")  # a batch that is larger than the cache
    assert len(cache) == 2
    assert release.asked == [["a"], ["b"], ["c"], ["v", "w", "x", "y", "z"]]


def test_nothing_is_kept_where_the_cache_is_off():
    release, (cache, seen) = CountingRelease(), cache_of(0)
    encoded(cache, release, "a")
    encoded(cache, release, "a")
    assert len(cache) == 0
    assert seen == [("misses", 1), ("misses", 1)]


def test_another_encoder_never_gets_the_vectors_of_the_one_before_and_the_same_one_gets_its_own():
    old, new, added = CountingRelease("one"), CountingRelease("another"), CountingRelease("one")
    cache, _ = cache_of(10)
    encoded(cache, old, "first", "river")
    assert encoded(cache, new, "river").vectors.tolist() == [[1, 5]]
    assert encoded(cache, old, "river").vectors.tolist() == [[2, 5]]
    assert encoded(cache, added, "river").vectors.tolist() == [[2, 5]]  # as `index add` makes it
    assert (new.asked, added.asked) == ([["river"]], [])


def test_an_encoder_that_is_down_leaves_nothing_in_the_cache_and_what_is_known_is_answered():
    release, (cache, seen) = CountingRelease(), cache_of(10)
    encoded(cache, release, "known")
    release.down = True
    with pytest.raises(ShardDown):
        encoded(cache, release, "known", "unknown")
    assert encoded(cache, release, "known").vectors.tolist() == [[1, 5]]
    release.down = False
    assert encoded(cache, release, "unknown").vectors.tolist() == [[2, 7]]
    assert seen == [("misses", 1), ("hits", 1), ("misses", 1)]


def test_an_entry_takes_its_vector_and_half_a_kilobyte_however_long_its_text_is():
    """1000 queries of 20,000 characters each would be 40 MB, and 256 dimensions for each are 1 MB."""

    class Wide(CountingRelease):
        async def encode(self, texts, role):
            batch = await super().encode(texts, role)
            return batch._replace(vectors=np.zeros((len(texts), 256), np.float32))

    (cache, _), release = cache_of(1000), Wide()
    tracemalloc.start()
    try:
        for start in range(0, 1200, 100):
            encoded(cache, release, *(f"{n} " + "é" * 20_000 for n in range(start, start + 100)))
            release.asked.clear()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(cache) == 1000
    assert 1000 * 1024 < taken < 1000 * (1024 + 512)


def test_several_threads_may_ask_at_once():
    """Each thread asks for its own texts and some of the others'; no answer is another text's, and the bound holds."""
    cache, _ = cache_of(20)
    wrong: list[Any] = []

    class Lengths(CountingRelease):
        async def encode(self, texts, role):
            lengths = np.array([len(text) for text in texts])
            return Encoded(lengths[:, None].astype(np.float32), lengths, lengths > 10)

    def ask(seed: int) -> None:
        random = np.random.default_rng(seed)
        try:
            for _ in range(300):
                texts = ["x" * n for n in random.integers(1, 40, 5)]
                answer = asyncio.run(cache.encode(Lengths(), [*map(Text, texts)]))  # type: ignore[arg-type]
                if answer.vectors[:, 0].tolist() != [len(text) for text in texts] or len(cache) > 20:
                    wrong.append(texts)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_known_query_does_not_wait_for_the_encoder():
    """The encoder hangs over a new query, and the one that was asked before is on its way to the shards."""

    class Searching(CountingRelease):
        async def search(self, shard, vectors, queries):
            return vectors.tolist(), {}

    async def run() -> list[Any]:
        release: Any = Searching()
        serving = SearchService(release, Serve())._active
        await serving.submit(Text("known"), [ShardQuery(3)])
        release.gate = asyncio.Event()
        hangs = serving.submit(Text("new"), [ShardQuery(3)])
        await asyncio.sleep(0)
        started = await asyncio.wait_for(serving.submit(Text("known"), [ShardQuery(3)]), 5)
        assert not hangs.done()
        assert serving.waited_s() > 0
        task, place = started.searches[0][0]
        found: Any = (await task)[0]
        hangs.cancel()
        return found[place]

    assert asyncio.run(run()) == [1, 5]


def test_ray_knows_the_counters():
    GatewayMetrics().observe("query_cache_hits", 2, {})
    assert {"query_cache_hits", "query_cache_misses"} <= GatewayMetrics.COUNTERS.keys()


# Through HTTP, with a real encoder


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "index"
    write_served_index(folder, sample_passages())
    return LocalRelease(str(folder))


def test_one_after_another_queries_are_answered_bit_for_bit_as_without_a_cache(release):
    texts = ["river number 7", "النهر رقم 3", "a </s> in it", "river number 7", " river number 7", "long " * 400]

    def answers(entries: int) -> list[Any]:
        service = SearchService(release, Serve(query_cache=entries))
        said: list[Any] = []
        with TestClient(create_app(service), base_url="http://localhost") as http:
            for text in [*texts, *texts]:
                answer = http.post("/search", json={"query": text, "k": 5}).json()
                said.append([answer["results"], answer["coverage"]])
                for kind in ("query", "passage"):
                    said.append(http.post("/v1/embeddings", json={"input": text, "input_type": kind}).json())
        assert len(service._cache) == min(entries, 4)  # of the six texts one is there three times
        return said

    with_cache, without = answers(100), answers(0)
    assert with_cache == without
    assert with_cache[-3][0][0]["cut"] is True
    as_query, as_passage = with_cache[1], with_cache[2]
    assert as_query["data"][0]["embedding"] != as_passage["data"][0]["embedding"]
