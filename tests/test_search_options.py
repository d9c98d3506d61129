"""What a search can ask besides: good hits only, pages, fields, similar passages; and a passage by its id.

The same from any cut of the passages, in both placements.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import threading
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import uvicorn
from checkpoints import TEXTS
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import ask, sample_passages, write_served_index
from placements import LOCAL, clients_of
from services import free_port, wait_until

from hybrid_ir.client import SearchClient
from hybrid_ir.config.experiment import Serve
from hybrid_ir.index.folder import read_manifest
from hybrid_ir.index.passage_table import PassageTable, write_passages
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.writing import open_shards
from hybrid_ir.serving.api import ErrorResponse, Passage
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.types import InputError

pytestmark = pytest.mark.numbers

SETTINGS = Serve(max_k=60, max_queries=5, max_batch=4)
WORDS = " ".join(TEXTS).split()  # what the tiny encoder knows: numbers would all be one to it
SAID = random.Random(0)
PASSAGES = [
    *(p._replace(text=" ".join(SAID.choices(WORDS, k=6))) for p in sample_passages()),
    *(IndexedPassage(f"same/{n}", "One text, five times.", "en", {"year": 1999}) for n in range(5)),
]
ODD = ["a/b", "a//b", "/a", "a/", "..", "a/../b", "a%2Fb", "a?b#c&d=e", "ü/ไทย 🦊", " a b ", "a+b", "\n", "\x00"]
ODD += ["\u00e9", "e\u0301"]  # two ways to write one letter (NFC, NFD): each is its own id
CUTS = {
    ("Flat", 1): "language",
    ("Flat", 3): "random",
    ("IVF4,SQ8", 1): "language",
    ("IVF4,SQ8", 3): "random",
}


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
    return clients_of(folders, SETTINGS)


@pytest.fixture
def http(services):
    with services["Flat", 3, "local"] as client:
        yield client


def search(http, query: str | list[str] | None = "Hauptstadt von France", **body):
    return ask(http, query, **body)


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
    assert hits(search(services["Flat", 3, "local"], ["capital", "Berlin"], min_score=1)) == []


# Pages

QUERIES = ["Hauptstadt von France", "столица مصر", "One text, five times.", "capital de España, Seine?"]
FILTERS = [{}, {"languages": ["en"]}, {"metadata": {"year": 1999}}, {"languages": ["ar", "th"], "min_score": 0.5}]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    queries=st.lists(st.sampled_from(QUERIES), min_size=1, max_size=4, unique=True),
    asked=st.sampled_from(FILTERS),
    size=st.integers(1, 12),
    count=st.integers(1, 5),
    codec=st.sampled_from(["Flat", "IVF4,SQ8"]),
)
def test_pages_put_together_are_one_answer(services, queries, asked, size, count, codec):
    """Alone or in a batch, from each cut and placement in turn: the same hits with the same scores in one order."""
    whole = search(services[codec, 1, "local"], queries, offset=0, k=size * count, **asked)
    ways = [(shards, placement) for shards in (1, 3) for placement in ("local", "distributed")]
    for place, query in enumerate(queries):
        alone, together = [], []
        for number in range(count):
            client = services[codec, *ways[(number + place) % 4]]
            page = {"offset": number * size, "k": size, **asked}
            alone += hits(search(client, query, **page))
            together += hits(search(client, queries, **page), place)
        assert alone == together == hits(whole, place)
        assert len({doc_id for doc_id, _ in alone}) == len(alone)


def test_ties_go_on_over_the_border_of_a_page_in_the_order_of_the_input(services):
    same = [f"same/{n}" for n in range(5)]
    for client in services.values():
        pages = [search(client, "One text, five times.", metadata={"year": 1999}, k=2, offset=n) for n in (0, 2, 4)]
        assert [doc_id for page in pages for doc_id, _ in hits(page)] == same


def test_a_page_says_its_positions_and_the_version_that_it_is_from(http):
    pages = [search(http, k=3, offset=offset) for offset in (0, 3)]
    assert [[hit["position"] for hit in page["results"][0]["hits"]] for page in pages] == [[1, 2, 3], [4, 5, 6]]
    assert pages[0]["index_version"] == pages[1]["index_version"]
    assert hits(search(http, metadata={"year": 1999}, offset=5)) == []


def test_the_last_page_ends_at_the_largest_k(http):
    assert len(hits(search(http, k=20, offset=40))) == 20
    refused = http.post("/search", json={"query": "a", "k": 20, "offset": 41})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "offset")
    assert refused.json()["error"]["message"] == "offset + k must be at most 60, got 41 + 20"


class Moody(LocalRelease):
    """Its encoder turns a text's vector by its company, much more than rounding does."""

    async def encode(self, texts, role):
        encoded = await super().encode(texts, role)
        vectors = encoded.vectors.copy()
        vectors[:, : len(texts) - 1] *= -1
        return encoded._replace(vectors=vectors)


@pytest.mark.parametrize("cached", [0, 8192])
def test_whoever_else_asks_the_pages_of_a_query_have_one_vector(folders, cached):
    release = Moody(str(folders["Flat", 3]))
    app = create_app(SearchService(release, SETTINGS.model_copy(update={"query_cache": cached})))

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=LOCAL) as client:

            async def ask(**body):
                return hits((await client.post("/search", json={"query": "river", **body})).json())

            # Not a page, the same query is encoded with others first: that vector is no page's.
            await client.post("/search", json={"query": ["river", "lake", "sea"]})
            whole = await ask(k=8, offset=0)
            crowd = [ask(k=4, offset=4, query=["a", "b"]), ask(query=["c", "d"])]
            first, second, *_ = await asyncio.gather(ask(k=4, offset=0), ask(k=4, offset=4), *crowd)
            return whole, first + second, await ask(k=8)

    whole, pages, plain = asyncio.run(run())
    assert pages == whole
    if cached:
        assert plain != whole  # the company of the first request shows in what is not a page


# Fields


def test_hits_have_the_fields_that_are_asked_for_and_no_others(services):
    always = {"position", "doc_id", "score"}
    filters = {"k": 20, "metadata": {"kind": "news"}}
    for client in services.values():
        whole = search(client, **filters)["results"][0]["hits"]
        for fields, extra in (([], set()), (["text"], {"text"}), (["metadata", "language"], {"metadata", "language"})):
            found = search(client, fields=fields, **filters)["results"][0]["hits"]
            assert found == [{name: hit[name] for name in always | extra} for hit in whole]
        found = search(client, fields=["metadata.year", "metadata.year"], **filters)["results"][0]["hits"]
        assert [hit["metadata"] for hit in found] == [{"year": hit["metadata"]["year"]} for hit in whole]
        assert all(hit.keys() == always | {"metadata"} for hit in found)


def test_a_passage_without_a_key_that_is_asked_for_has_none(http):
    (first, *_) = search(http, metadata={"year": 1999}, fields=["metadata.kind"])["results"][0]["hits"]
    assert first["metadata"] == {}


# A passage by its id


def test_a_passage_is_found_by_its_id_in_every_shard_and_placement(services):
    for client in services.values():
        version = client.get("/stats").json()["index_version"]
        for wanted in PASSAGES[::25]:
            answer = client.get(f"/passages/{quote(wanted.doc_id, safe='')}")
            assert answer.status_code == 200
            Passage.model_validate_json(answer.content)
            assert answer.json() == {**wanted._asdict(), "index_version": version}


def test_an_id_that_is_not_there_is_a_404_that_names_it(services):
    for client in services.values():
        for path, doc_id in (("en", "en"), ("en/7/", "en/7/"), ("EN/7", "EN/7"), ("", "")):
            answer = client.get(f"/passages/{path}")
            assert answer.status_code == 404
            error = ErrorResponse.model_validate_json(answer.content).error
            assert (error.type, error.param) == ("passage_not_found", "doc_id")
            assert error.message == f"no passage has the doc_id '{doc_id}'"


@contextlib.contextmanager
def served(app):
    """The address of a server as Serve's, which undoes escapes once; a TestClient undoes them twice."""
    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    thread.join()


def test_an_id_of_any_characters_is_found(tmp_path):
    odd = [IndexedPassage(doc_id, f"Number {n} of the odd.", "en") for n, doc_id in enumerate(ODD)]
    write_served_index(tmp_path / "index", odd, shards=2, sharding="random")
    app = create_app(SearchService(LocalRelease(str(tmp_path / "index")), SETTINGS), ("key",))
    with served(app) as url:
        client = SearchClient(url, api_key="key")
        for wanted in odd:
            found = client.passage(wanted.doc_id)
            assert (found["doc_id"], found["text"]) == (wanted.doc_id, wanted.text)
        with pytest.raises(InputError, match="no passage has the doc_id 'a'"):
            client.passage("a")
        raw = httpx.get(f"{url}/passages/%FF", headers={"Authorization": "Bearer key"}, trust_env=False)
        assert raw.json()["error"]["type"] == "passage_not_found"  # bytes that are no UTF-8 are nobody's id
        assert httpx.get(f"{url}/passages/a%2Fb", trust_env=False).status_code == 401


def test_a_passage_behind_the_first_batch_of_rows_is_found(tmp_path):
    write_passages(tmp_path / "p.arrow", (IndexedPassage(f"doc-{n}", "t", "en") for n in range(9000)), ())
    table = PassageTable(tmp_path / "p.arrow")
    assert [table.find(f"doc-{n}") for n in (0, 4095, 4096, 8999, 9000)] == [0, 4095, 4096, 8999, None]


# Similar passages


def stored(folder):
    """Vectors of all passages, in the order of the input."""
    shards = open_shards(folder, read_manifest(folder))
    ids = np.concatenate([shard.ids for shard in shards])
    vectors = np.concatenate([np.asarray(shard.vectors, np.float32) for shard in shards])
    return vectors[np.argsort(ids)]


@pytest.mark.parametrize("asked", [{}, {"languages": ["ar"]}, {"metadata": {"kind": "news"}}])
def test_similar_passages_are_the_nearest_of_the_stored_vectors_without_itself(folders, services, asked):
    vectors = stored(folders["Flat", 1])
    languages, kind = asked.get("languages"), asked.get("metadata", {}).get("kind")
    for own in (0, 40, 77, 122):
        scores = vectors @ vectors[own]
        kept = [
            n
            for n, p in enumerate(PASSAGES)
            if n != own and (not languages or p.language in languages) and (not kind or p.metadata.get("kind") == kind)
        ]
        expected = sorted(round(-float(scores[n]), 5) for n in kept)[:12]
        answers = [
            hits(search(client, None, like=PASSAGES[own].doc_id, k=12, **asked))
            for (codec, *_), client in services.items()
            if codec == "Flat"
        ]
        assert all(found == answers[0] for found in answers)
        assert [round(-score, 5) for _, score in answers[0]] == pytest.approx(expected, abs=2e-5)
        assert PASSAGES[own].doc_id not in dict(answers[0])


def test_a_passage_with_the_same_text_is_the_most_similar_whatever_the_codec(services):
    for client in services.values():
        found = hits(search(client, None, like="same/2", k=4))
        assert [doc_id for doc_id, _ in found] == ["same/0", "same/1", "same/3", "same/4"]
        assert [score for _, score in found] == pytest.approx([1] * 4, abs=1e-3)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    own=st.integers(0, len(PASSAGES) - 1),
    asked=st.sampled_from(FILTERS),
    size=st.integers(1, 12),
    count=st.integers(1, 5),
    codec=st.sampled_from(["Flat", "IVF4,SQ8"]),
)
def test_pages_of_similar_passages_put_together_are_one_answer(services, own, asked, size, count, codec):
    like = PASSAGES[own].doc_id
    whole = hits(search(services[codec, 1, "local"], None, like=like, offset=0, k=size * count, **asked))
    ways = [(shards, placement) for shards in (3, 1) for placement in ("distributed", "local")]
    pages = [
        search(services[codec, *ways[n % 4]], None, like=like, offset=n * size, k=size, **asked) for n in range(count)
    ]
    assert [hit for page in pages for hit in hits(page)] == whole
    assert like not in dict(whole)


# The client


@pytest.fixture
def client(http):
    """A SearchClient of the service in this process."""
    client = SearchClient(LOCAL)
    client._http = http
    return client


def test_the_client_asks_for_it_all(http, client):
    found = hits(search(http, k=10))
    assert hits(client.search("Hauptstadt von France", min_score=found[2][1])) == found[:3]
    assert hits(client.search("Hauptstadt von France", k=2, offset=3)) == hits(search(http, k=5, offset=0))[3:]
    found = client.search("Hauptstadt von France", k=2, fields=["language"])["results"][0]["hits"]
    assert [sorted(hit) for hit in found] == [["doc_id", "language", "position", "score"]] * 2
    assert hits(client.search(like="en/7", k=3)) == hits(search(http, None, like="en/7", k=3))
