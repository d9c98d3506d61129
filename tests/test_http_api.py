"""The HTTP API in process: what answers say, what is refused and how, partial answers, batches, and a swap under
load.
"""

from __future__ import annotations

import asyncio
import base64
import time
from http import HTTPStatus

import httpx
import numpy as np
import openai
import pytest
import torch
from indices import ask, sample_passages, write_served_index
from sentence_transformers import SentenceTransformer
from starlette.testclient import TestClient

from hybrid_ir.config.experiment import Serve
from hybrid_ir.index.folder import read_manifest
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.serving.api import DeadlineResponse, EmbeddingsResponse, ErrorResponse, Ready, Stats
from hybrid_ir.serving.http_app import OPEN_TO_ALL, create_app, openapi
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.query_encoder import QueryEncoder
from hybrid_ir.serving.release import ShardDown
from hybrid_ir.serving.search_service import SearchService

pytestmark = pytest.mark.numbers

LOCAL = "http://localhost"
SETTINGS = Serve(
    max_k=500, max_queries=5, max_inputs=5, max_characters=1000, max_body_bytes=10_000, max_queue=8, max_batch=4
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """120 passages, 40 in each of Arabic, English and Thai; five more in English that are one text."""
    folder = tmp_path_factory.mktemp("http") / "index"
    same = [IndexedPassage(f"same/{n}", "One text, five times.", "en", {"year": 1999}) for n in range(5)]
    write_served_index(folder, [*sample_passages(), *same])
    return folder


@pytest.fixture(scope="module")
def http(folder):
    with TestClient(create_app(SearchService(LocalRelease(str(folder)), SETTINGS)), base_url=LOCAL) as client:
        yield client


def search(http, query: str | list[str] | None = "river number 7", **body):
    return ask(http, query, **body)


def ids(answer, place=0):
    return [hit["doc_id"] for hit in answer["results"][place]["hits"]]


# What an answer says


def test_hits_come_best_first_with_all_that_is_documented(http, folder):
    answer = search(http, k=7)
    hits = answer["results"][0]["hits"]
    assert [hit["position"] for hit in hits] == [1, 2, 3, 4, 5, 6, 7]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert answer["coverage"] == {
        "complete": True,
        "shards": 2,
        "shards_total": 2,
        "shards_missing": [],
        "languages_missing": [],
    }
    manifest = read_manifest(folder)
    assert (answer["space_id"], answer["index_version"]) == (manifest.space["id"], manifest.index_version)
    assert answer["timings_ms"]["total"] > 0


def test_a_list_of_queries_is_answered_as_each_alone(http):
    queries = ["river number 7", "النهر رقم 3", "One text"]
    together = search(http, queries, k=4)
    for place, query in enumerate(queries):
        alone = search(http, query, k=4)
        assert ids(together, place) == ids(alone)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_query_has_one_vector_up_to_rounding_alone_or_in_a_batch(folder, monkeypatch, precision):
    monkeypatch.setenv("HYBRID_IR_AUTO_PRECISION", precision)
    encoder = QueryEncoder(str(folder), read_manifest(folder), None, 1)
    texts = [f"Where is the river number {n}" + " and where does it end" * (n % 4) for n in range(32)]
    together = encoder(texts, "query").vectors
    alone = np.concatenate([encoder([text], "query").vectors for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-6)


def test_a_language_filter_finds_only_its_languages_and_never_too_few(http):
    for hit in (hits := search(http, languages=["th"], k=40)["results"][0]["hits"]):
        assert hit["language"] == "th"
    assert len(hits) == 40
    assert len(ids(search(http, languages=["th", "ar", "th"], k=500))) == 80


def test_a_metadata_filter_is_equality_of_value_and_type(http):
    found = search(http, metadata={"year": 2001, "kind": "news"}, k=500)["results"][0]["hits"]
    # Of the numbers below 40: odd ones are news, those of remainder 1 by 3 have year 2001: 1, 7, ..., 37, in three
    # languages.
    assert len(found) == 3 * 7
    assert all(hit["metadata"] == {"year": 2001, "kind": "news"} for hit in found)
    assert ids(search(http, metadata={"year": "2001"})) == []
    assert ids(search(http, metadata={"year": True})) == []
    assert len(ids(search(http, metadata={"year": 2001}, languages=["ar"], k=500))) == 13


def test_search_has_two_names_and_both_are_documented(http):
    body = {"query": "river number 7", "languages": ["en"], "k": 3}
    old, new = (http.post(path, json=body) for path in ("/search", "/v1/search"))
    assert old.status_code == new.status_code == 200
    assert old.json()["results"] == new.json()["results"]
    paths = openapi()["paths"]
    assert paths["/v1/search"]["post"]["requestBody"] == paths["/search"]["post"]["requestBody"]
    assert http.get("/v1/search").status_code == 405


def test_k_beyond_the_index_gives_all_of_it(http):
    found = ids(search(http, k=500))
    assert len(found) == len(set(found)) == 125


def test_equal_scores_stand_in_the_order_of_the_input(http):
    assert ids(search(http, "One text, five times.", metadata={"year": 1999}, k=3)) == ["same/0", "same/1", "same/2"]


def test_languages_are_read_as_the_build_reads_them(http):
    alike = [ids(search(http, languages=tags, k=50)) for tags in (["en"], ["EN"], ["en-US", "en"], ["eng"])]
    assert len(alike[0]) == 45
    assert alike == [alike[0]] * 4
    assert ids(search(http, languages=["arb", "ar-EG"], k=50)) == ids(search(http, languages=["ar"], k=50))


def test_an_integer_of_any_size_in_the_metadata_is_answered_as_it_is(tmp_path):
    """The build refuses more than 64 bits now; an index of before may hold them."""
    big = 2**64 + 1
    write_served_index(tmp_path / "index", [IndexedPassage("1", "One text.", "en", {"serial": big})], shards=1)
    with TestClient(create_app(SearchService(LocalRelease(str(tmp_path / "index")), SETTINGS)), base_url=LOCAL) as http:
        assert search(http, k=1)["results"][0]["hits"][0]["metadata"] == {"serial": big}
        assert ids(search(http, metadata={"serial": big})) == ["1"]


# What is refused


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({"query": ""}, 422, "query", "at least 1 character"),
        ({"query": " \n"}, 422, "query", "query"),
        ({"query": []}, 422, "query", "query"),
        ({"query": ["a"] * 6}, 422, "query", "at most 5 texts, got 6"),
        ({"query": "x" * 1001}, 422, "query", "1000 characters, got 1001"),
        ({"query": 7}, 422, "query", "query"),
        ({}, 422, "query", "required"),
        ({"query": "a", "k": 0}, 422, "k", "greater than or equal to 1"),
        ({"query": "a", "k": 10**9}, 422, "k", "at most 500, got 1000000000"),
        ({"query": "a", "k": 1.5}, 422, "k", "integer"),
        ({"query": "a", "languages": []}, 422, "languages", "at least 1"),
        ({"query": "a", "languages": ["en", "xx"]}, 422, "languages", "'xx'; there are ar en th"),
        ({"query": "a", "metadata": {"colour": 1}}, 422, "metadata", "'colour'; keys: kind, year"),
        ({"query": "a", "policy": "lax"}, 422, "policy", "strict"),
        ({"query": "a", "deadline_ms": 0}, 422, "deadline_ms", "greater than or equal to 1"),
        ({"query": "a", "offset": -1}, 422, "offset", "greater than or equal to 0"),
        ({"query": "a", "offset": 491}, 422, "offset", "at most 500, got 491 + 10"),
        ({"query": "a", "fields": ["text", "year"]}, 422, "fields", "'year'; there are text, language, metadata"),
        ({"query": "a", "fields": ["metadata.x"]}, 422, "fields", "language, metadata, metadata.kind, metadata.year"),
        ({"query": "a", "fields": ["text"] * 68}, 422, "fields", "at most 67 values, got 68"),
        ({"query": "a", "fields": "text"}, 422, "fields", "list"),
        ({"query": None, "like": None}, 422, "query", "required"),
        ({"query": "a", "like": "en/7"}, 422, "like", "one of the two"),
        ({"like": ""}, 422, "like", "at least 1 character"),
        ({"like": ["en/7"]}, 422, "like", "string"),
        ({"like": "en/700"}, 404, "like", "no passage has the doc_id 'en/700'"),
        ({"query": "a", "min_score": 1.5}, 422, "min_score", "less than or equal to 1"),
        ({"query": "a", "min_score": "0.5"}, 422, "min_score", "number"),
        ({"query": "a", "min_score": True}, 422, "min_score", "number"),
        ({"query": "a", "topk": 5}, 422, "topk", "unknown field 'topk'"),
        ([], 422, None, "object"),
    ],
)
def test_a_wrong_search_is_refused_with_its_field_and_what_was_wrong(http, body, status, param, said):
    answer = http.post("/search", json=body)
    error = ErrorResponse.model_validate_json(answer.content).error
    assert answer.status_code == status
    assert error.param == param
    assert said in error.message


def test_what_is_not_json_or_too_large_is_refused(http):
    for content in (b"", b"{", b"\xff\xfe", b'{"query": "\xff"}'):
        assert http.post("/search", content=content).status_code == 400
    for number in (b"NaN", b"Infinity", b"-Infinity"):
        refused = http.post("/search", content=b'{"query": "a", "k": ' + number + b"}")
        assert refused.status_code == 400
        assert "JSON has no NaN and no Infinity" in refused.json()["error"]["message"]
    assert http.post("/search", content=b" " * 10_001).status_code == 413
    assert http.post("/search", content=iter([b" " * 6_000] * 2)).status_code == 413  # chunked: no length is declared
    search(http)


def test_a_text_of_invisible_space_is_empty(http):
    assert http.post("/search", json={"query": "\u200b\ufeff"}).status_code == 422
    assert http.post("/v1/embeddings", json={"input": ["a", "\u200b "]}).status_code == 422


def test_other_routes_and_methods_have_the_same_shape_of_error(http):
    for answer, status in ((http.get("/nothing"), 404), (http.get("/search"), 405), (http.put("/search"), 405)):
        assert answer.status_code == status
        ErrorResponse.model_validate_json(answer.content)


def test_an_error_is_a_problem_of_rfc_9457_and_has_the_object_of_openais_beside_it(http):
    answer = http.post("/v1/search", json={"query": "a", "k": 501})
    assert answer.headers["content-type"] == "application/problem+json"
    said = "k must be at most 500, got 501"
    assert answer.json() == {
        "type": "about:blank",
        "title": HTTPStatus(422).phrase,
        "status": 422,
        "detail": said,
        "error": {"message": said, "type": "invalid_request", "param": "k"},
    }
    for other in (http.get("/nothing"), http.put("/search"), http.get("/passages/none")):
        assert other.headers["content-type"] == "application/problem+json"
        assert other.json()["status"] == other.status_code
    assert http.post("/search", json={"query": "a"}).headers["content-type"] == "application/json"


def test_a_slash_too_many_is_not_found_and_redirects_nowhere(http):
    for method, path in (("POST", "/search/"), ("GET", "/stats/"), ("GET", "/docs/")):
        answer = http.request(method, path, headers={"Host": "127.0.0.1"}, follow_redirects=False)
        assert answer.status_code == 404
        assert "location" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/stats", "/readyz", "/search", "/v1/search", "/v1/embeddings", "/openapi.json"])
def test_without_keys_a_name_that_is_not_this_machines_is_refused(http, folder, path):
    """A page of another site lets its name point here, and would read the answers: DNS rebinding."""
    method = "POST" if path in ("/search", "/v1/search", "/v1/embeddings") else "GET"

    def status(client, host):
        return client.request(method, path, headers={"Host": host}, json={"query": "a"}).status_code

    right = ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "10.0.0.7"]
    wrong = [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[x]:1",
        "a:b:c:g",
    ]
    assert 403 not in {status(http, host) for host in right}
    assert {status(http, host) for host in wrong} == {403}
    # Another site's page has no key to send; who opens the service to all says so.
    service = SearchService(LocalRelease(str(folder)), SETTINGS)
    assert status(TestClient(create_app(service, ("key",))), "search.example") != 403
    service.settings = SETTINGS.model_copy(update={"allow_public": True})
    assert status(TestClient(create_app(service)), "search.example") != 403


# Keys


def test_with_keys_only_the_open_routes_answer_without_one(folder):
    app = create_app(SearchService(LocalRelease(str(folder)), SETTINGS), ("first", "zweiter-schlüssel"))
    with TestClient(app, base_url=LOCAL) as http:
        for route in OPEN_TO_ALL:
            assert http.get(route).status_code == 200
        routes = [("GET", "/stats"), ("GET", "/v1/models"), ("GET", "/passages/en%2F7"), ("GET", "/passages/none")]
        routes += [("POST", "/search"), ("POST", "/v1/search"), ("POST", "/v1/embeddings")]
        wrong = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "first"}, {"Authorization": "Basic first"}]
        for method, route in routes:
            for headers in [*wrong, {"Authorization": b"Bearer \xff\xfe"}]:
                answer = http.request(method, route, headers=headers, json={"query": "a"})
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                ErrorResponse.model_validate_json(answer.content)
        assert http.get("/stats", headers={"Authorization": "bearer first"}).status_code == 200
        assert http.post("/search", json={"query": "a"}, headers={"Authorization": "Bearer first"}).status_code == 200


# Embeddings


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openais_own_client_gets_the_encoders_vectors_as_floats_and_as_base64(folder, monkeypatch, precision):
    """They are those of sentence-transformers in fp32, whatever precision the machine prefers."""
    monkeypatch.setenv("HYBRID_IR_AUTO_PRECISION", precision)
    http = TestClient(create_app(SearchService(LocalRelease(str(folder)), SETTINGS)), base_url=LOCAL)
    client = openai.OpenAI(base_url=f"{LOCAL}/v1", api_key="none", http_client=http, max_retries=0)
    model = client.models.list().data[0].id
    texts = ["The river is long.", "النهر طويل."]
    encoder = SentenceTransformer(str(folder / "encoder"))
    for kind, expected in (("query", encoder.encode_query(texts)), ("passage", encoder.encode_document(texts))):
        for encoding_format in ("float", "base64"):
            # The client asks for base64 by itself where nothing is named, and decodes it.
            answer = client.embeddings.create(
                model=model, input=texts, encoding_format=encoding_format, extra_body={"input_type": kind}
            )
            vectors = [row.embedding for row in answer.data]
            if encoding_format == "base64":
                vectors = [np.frombuffer(base64.b64decode(v), "<f4") if isinstance(v, str) else v for v in vectors]
            np.testing.assert_allclose(
                np.asarray(vectors), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5
            )
    assert answer.usage.prompt_tokens > 0


def test_answers_say_which_texts_were_longer_than_the_encoder_reads(http):
    texts = ["river", "river number 7 is long " * 20, "The river."]
    assert [one["cut"] for one in search(http, texts)["results"]] == [False, True, False]
    data = http.post("/v1/embeddings", json={"input": texts}).json()["data"]
    assert [row["cut"] for row in data] == [False, True, False]


def test_embeddings_refuse_another_model_and_other_dimensions(http, folder):
    def ask(**body):
        return http.post("/v1/embeddings", json={"input": "a", **body})

    EmbeddingsResponse.model_validate_json(ask().content)
    assert ask(model=read_manifest(folder).space["id"], dimensions=128, user="u").status_code == 200
    assert (ask(model="text-embedding-3-small").status_code, ask(dimensions=64).status_code) == (404, 422)
    said = ask(dimensions=64).json()["error"]["message"]
    assert said.startswith("dimensions must be 128, got 64: the encoder does not say that it was trained for fewer")
    assert (ask(input="").status_code, ask(input=["a"] * 6).status_code, ask(input=[1, 2]).status_code) == (
        422,
        422,
        422,
    )


def test_dimensions_that_the_encoder_was_trained_for_are_its_first_values_at_unit_length(folder):
    release = LocalRelease(str(folder))
    release.manifest.space["shorter"] = [64, 16]
    http = TestClient(create_app(SearchService(release, SETTINGS)), base_url=LOCAL)
    client = openai.OpenAI(base_url=f"{LOCAL}/v1", api_key="none", http_client=http, max_retries=0)
    model, texts = client.models.list().data[0].id, ["The river is long.", "النهر طويل."]

    def vectors(name, **more):
        return np.asarray([row.embedding for row in client.embeddings.create(model=name, input=texts, **more).data])

    for name in (model, f"{model}:query"):
        whole = vectors(name)
        assert whole.shape == (2, 128)
        np.testing.assert_allclose(vectors(name, dimensions=128), whole, atol=1e-6)
        for dimension in (64, 16):
            expected = whole[:, :dimension] / np.linalg.norm(whole[:, :dimension], axis=1, keepdims=True)
            np.testing.assert_allclose(vectors(name, dimensions=dimension), expected, atol=1e-6)
        np.testing.assert_allclose(vectors(name), whole, atol=1e-6)  # also where the cache has them
    for asked in (65, 0, -16, 256):
        with pytest.raises(
            openai.UnprocessableEntityError, match=f"128 or 64 or 16, got {asked}: the encoder was train"
        ):
            vectors(model, dimensions=asked)


# Health, statistics, documentation


def test_stats_and_health_say_what_is_served(http, folder):
    stats = Stats.model_validate_json(http.get("/stats").content)
    assert stats.languages == {"ar": 40, "en": 45, "th": 40}
    assert sum(shard.passages for shard in stats.shards) == stats.passages == 125
    assert stats.index == str(folder)
    assert Ready.model_validate_json(http.get("/readyz").content).ready
    assert http.get("/healthz").json() == {"status": "ok"}


def test_the_documentation_lists_every_route_and_field_with_an_example_and_loads_nothing(http):
    document = http.get("/openapi.json").json()
    docs = http.get("/docs").text
    assert "http://" not in docs
    assert "https://" not in docs
    for path in document["paths"]:
        assert path in docs
    for name, schema in document["components"]["schemas"].items():
        for field, described in schema.get("properties", {}).items():
            assert f"<code>{field}</code>" in docs, (name, field)
            refers = "$ref" in str(described)
            assert described.get("examples") or refers or "const" in described, (name, field)


def test_the_document_needs_no_service_and_every_route_status_body_and_field_has_a_meaning(http):
    document = openapi()
    assert document == http.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for route in methods.values():
            assert route["description"], path
            assert {"403", "500"} <= route["responses"].keys(), path
            assert all(answer["description"] != "Successful Response" for answer in route["responses"].values()), path
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        for field, described in schema["properties"].items():
            assert described.get("description") or "$ref" in described, (name, field)


# Shards that are slow or gone: a release whose shards do what a test says


class Unsteady(LocalRelease):
    """A LocalRelease: `delays` and `gone` name shards by number, `gate` holds encoding back, `batches` has its sizes,
    `asked` the shards that were searched and for how many queries.
    """

    def __init__(self, index):
        super().__init__(index)
        self.delays, self.gone, self.encoder_gone, self.broken = {}, set(), False, False
        self.gate, self.batches, self.asked = None, [], []

    async def encode(self, texts, role):
        if self.gate is not None:
            await self.gate.wait()
        self.batches.append(len(texts))
        if self.encoder_gone:
            raise ShardDown("encoder-x does not answer")
        if self.broken:
            raise ZeroDivisionError("a defect")
        return await super().encode(texts, role)

    async def search(self, shard, vectors, queries):
        self.asked.append((shard, len(queries)))
        await asyncio.sleep(self.delays.get(shard, 0))
        if shard in self.gone:
            raise ShardDown(f"shard {shard}")
        return await super().search(shard, vectors, queries)

    async def find(self, shard, doc_id):
        await asyncio.sleep(self.delays.get(shard, 0))
        if shard in self.gone:
            raise ShardDown(f"shard {shard}")
        return await super().find(shard, doc_id)

    def down(self):
        return sorted(self.gone), not self.encoder_gone


@pytest.fixture
def unsteady(folder):
    release = Unsteady(str(folder))
    with TestClient(
        create_app(SearchService(release, SETTINGS)), base_url=LOCAL, raise_server_exceptions=False
    ) as client:
        yield release, client


def test_a_deadline_answers_504_with_what_was_found(unsteady):
    release, http = unsteady
    release.delays[1] = 5
    begun = time.perf_counter()
    answer = http.post("/search", json={"query": "river", "k": 500, "deadline_ms": 300, "policy": "best_effort"})
    assert time.perf_counter() - begun < 3
    assert answer.status_code == 504
    content = DeadlineResponse.model_validate_json(answer.content)
    assert content.error.type == "deadline_exceeded"
    assert content.coverage.shards_missing == ["001"]
    assert len(content.results[0].hits) == release.manifest.shards[0].rows
    assert content.results[0].cut is False


def test_a_shard_that_is_gone_fails_strict_and_shows_in_best_effort(unsteady):
    release, http = unsteady
    release.gone.add(0)
    strict = http.post("/search", json={"query": "river"})
    assert strict.status_code == 503
    assert "000" in strict.json()["error"]["message"]
    assert strict.headers["Retry-After"] == "1"
    partial = search(http, "river", policy="best_effort", k=500)
    here, there = (set(shard.languages) for shard in release.manifest.shards)
    assert partial["coverage"] == {
        "complete": False, "shards": 1, "shards_total": 2, "shards_missing": ["000"], "languages_missing": sorted(here),
    }  # fmt: skip
    assert len(ids(partial)) == release.manifest.shards[1].rows
    (only_there,) = there - here
    gone = min(here - there)
    partial = search(http, "river", policy="best_effort", languages=[gone.upper(), only_there])
    assert partial["coverage"]["languages_missing"] == [gone]
    assert search(http, "river", languages=[only_there])["coverage"]["complete"]
    assert http.get("/readyz").status_code == 503
    assert http.get("/readyz").json()["shards_missing"] == ["000"]
    release.gone.add(1)
    assert http.post("/search", json={"query": "river", "policy": "best_effort"}).status_code == 503
    release.gone.clear()
    assert search(http, "river")["coverage"]["complete"]


def test_a_passage_that_may_be_in_a_shard_that_is_gone_is_no_404(unsteady):
    release, http = unsteady
    here, there = ({*shard.languages} for shard in release.manifest.shards)
    here, there = min(here - there), min(there - here)
    release.gone.add(0)
    assert http.get(f"/passages/{there}/7").status_code == 200
    for doc_id in (f"{here}/7", "nowhere"):
        answer = http.get(f"/passages/{doc_id}")
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "shards_missing")
        assert "shards 000 do not answer" in answer.json()["error"]["message"]
    release.gone.clear()
    assert http.get(f"/passages/{here}/7").json()["doc_id"] == f"{here}/7"
    release.delays[0] = 30  # who has it is not waited for together with who has not
    assert http.get(f"/passages/{there}/7").status_code == 200
    late = http.post("/search", json={"like": f"{here}/7", "deadline_ms": 100})
    assert (late.status_code, late.json()["error"]["type"]) == (503, "shards_missing")


def test_without_its_encoder_the_service_says_so(unsteady):
    release, http = unsteady
    release.encoder_gone = True
    assert len(ids(search(http, None, like="en/7"))) == 10  # nothing is encoded for it
    answer = http.post("/search", json={"query": "river", "policy": "best_effort"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "encoder_missing")
    assert not http.get("/readyz").json()["encoder"]


def test_a_defect_is_a_500_in_the_documented_shape_and_the_next_search_answers(unsteady):
    release, http = unsteady
    release.broken = True
    answer = http.post("/search", json={"query": "river"})
    assert answer.status_code == 500
    assert "ZeroDivision" not in ErrorResponse.model_validate_json(answer.content).error.message
    release.broken = False
    search(http, "river")


def concurrently(app, requests):
    """Statuses and bodies of requests sent at once, through `requests(client)`, a list of awaitables."""

    async def run():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=LOCAL) as client:
            return await requests(client)

    return asyncio.run(run())


def test_requests_that_come_together_are_encoded_together_and_a_full_queue_says_429(folder):
    release = Unsteady(str(folder))
    app = create_app(SearchService(release, SETTINGS))

    async def requests(client):
        release.gate = asyncio.Event()
        first = []
        for count in (1, 8):  # one is being encoded, eight wait
            bodies = [{"query": f"river {count} {n}"} for n in range(count)]  # no two are alike: each is encoded
            first += [asyncio.create_task(client.post("/search", json=body)) for body in bodies]
            await asyncio.sleep(0.3)
        refused = await client.post("/search", json={"query": "one too many"})
        release.gate.set()
        answers = await asyncio.gather(*first)
        return refused, answers, await client.post("/search", json={"query": "after"})

    refused, answers, after = concurrently(app, requests)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert {answer.status_code for answer in answers} == {200}
    assert release.batches[:3] == [1, 4, 4]  # max_batch is 4
    assert after.status_code == 200


def test_a_batch_takes_half_of_what_waits_but_not_fewer_than_four(folder):
    """Sixteen wait while one is encoded: eight of them go, then four of the eight that are left, then all."""
    release = Unsteady(str(folder))
    settings = SETTINGS.model_copy(update={"max_queue": 32, "max_batch": 32})

    async def requests(client):
        release.gate = asyncio.Event()
        asked = [asyncio.create_task(client.post("/search", json={"query": "river"}))]
        await asyncio.sleep(0.1)
        asked += [asyncio.create_task(client.post("/search", json={"query": f"river {n}"})) for n in range(16)]
        await asyncio.sleep(0.3)
        release.gate.set()
        return await asyncio.gather(*asked)

    answers = concurrently(create_app(SearchService(release, settings)), requests)
    assert {answer.status_code for answer in answers} == {200}
    assert release.batches == [1, 8, 4, 4]


def test_several_queries_are_split_among_calls_of_one_thread_and_come_in_their_order(folder, monkeypatch):
    release = LocalRelease(str(folder), threads=3)
    embedder, used = release._encoder._embedder, []
    embed = embedder.forward

    def noted(tokens):
        used.append((len(tokens), torch.get_num_threads()))
        return embed(tokens)

    monkeypatch.setattr(embedder, "forward", noted)
    texts = [f"river {n} " + "long " * n for n in range(14)]

    async def encode():
        alone = [await release.encode([text], "query") for text in texts]
        return alone, await release.encode(texts, "query")

    alone, together = asyncio.run(encode())
    release.close()
    assert used[:14] == [(1, 3)] * 14
    assert sorted(used[14:]) == [(4, 1), (5, 1), (5, 1)]
    np.testing.assert_allclose(together.vectors, np.concatenate([one.vectors for one in alone]), atol=1e-6)
    assert together.tokens.tolist() == [int(one.tokens[0]) for one in alone]
    assert together.cut.shape == (14,)


def test_a_query_waits_only_for_the_shards_that_hold_its_languages(unsteady):
    """Arabic is in one shard: the other may hang, and is not even asked."""
    release, http = unsteady
    shards = [set(shard.languages) for shard in release.manifest.shards]
    for n, slow in enumerate(shards):
        (elsewhere,) = [1 - n]
        release.delays, release.asked = {n: 30}, []
        answer = search(http, "river", languages=sorted(shards[elsewhere] - slow)[:1], k=3)
        assert len(ids(answer)) == 3
        assert answer["coverage"]["complete"]
        assert release.asked == [(elsewhere, 1)]


def test_queries_of_one_batch_are_each_searched_in_their_own_shards(folder):
    release = Unsteady(str(folder))
    languages = [["ar"], ["en"], ["th"], None]

    async def ask(client, wanted):
        query = f"river number {languages.index(wanted)}"  # no two are alike: each is encoded
        answer = await client.post("/search", json={"query": query, "k": 30, "languages": wanted})
        return ids(answer.json())

    async def requests(client):
        alone = [await ask(client, wanted) for wanted in languages]
        release.gate = asyncio.Event()
        first = asyncio.create_task(ask(client, None))
        await asyncio.sleep(0.1)
        release.batches.clear()
        together = [asyncio.create_task(ask(client, wanted)) for wanted in languages]
        await asyncio.sleep(0.1)
        release.gate.set()
        await first
        return alone, await asyncio.gather(*together)

    settings = SETTINGS.model_copy(update={"query_cache": 0})
    alone, together = concurrently(create_app(SearchService(release, settings)), requests)
    assert release.batches == [1, 4]
    assert together == alone


def hanging_up(app, path, body):
    """Asks and hangs up: a task that ends when the app has nothing more to do for the request, and its answer."""
    messages, sent = [{"type": "http.request", "body": body}], []
    hung_up = asyncio.Event()

    async def receive():
        if messages:
            return messages.pop()
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    return asyncio.create_task(app(scope, receive, send)), hung_up, sent


@pytest.mark.parametrize("path", ["/search", "/v1/embeddings"])
def test_a_client_that_hangs_up_leaves_the_queue_and_is_not_encoded_for(folder, path):
    release = Unsteady(str(folder))
    service = SearchService(release, SETTINGS)
    app = create_app(service)
    body = b'{"query": ["a", "b", "c", "d", "e"]}' if path == "/search" else b'{"input": ["a", "b", "c", "d", "e"]}'

    async def run():
        release.gate = asyncio.Event()
        first, _, _ = hanging_up(app, "/search", b'{"query": "the encoder is busy with this one"}')
        await asyncio.sleep(0.1)
        second, hung_up, sent = hanging_up(app, path, body)
        await asyncio.sleep(0.1)
        assert service.waiting == 5
        hung_up.set()
        await asyncio.wait_for(second, 5)
        assert service.waiting == 0
        release.gate.set()
        await first
        return sent

    assert asyncio.run(run()) == []
    assert release.batches == [1]


@pytest.mark.parametrize("path", ["/search", "/v1/embeddings"])
def test_a_client_that_leaves_while_it_sends_is_no_error_of_ours(folder, path, caplog):
    app = create_app(SearchService(Unsteady(str(folder)), SETTINGS))
    sent = []

    async def run():
        messages = [{"type": "http.request", "body": b'{"que', "more_body": True}, {"type": "http.disconnect"}]

        async def receive():
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"127.0.0.1")]
        await app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)

    asyncio.run(run())
    assert sent == []
    assert not caplog.records


def test_a_swap_under_load_mixes_nothing_and_its_rollback_is_immediate(tmp_path):
    releases = {}
    for seed, label in enumerate(("old", "new")):
        labelled = [p._replace(doc_id=f"{label}/{p.doc_id}") for p in sample_passages()]
        write_served_index(tmp_path / label, labelled, seed=seed)
        releases[label] = LocalRelease(str(tmp_path / label))
    service = SearchService(releases["old"], Serve())
    old, new = (releases[label].key for label in ("old", "new"))

    async def requests(client):
        seen, stop = [], asyncio.Event()

        async def ask():
            while not stop.is_set():
                answer = await client.post("/search", json={"query": "river", "k": 5})
                assert answer.status_code == 200
                hits = answer.json()["results"][0]["hits"]
                labels = {hit["doc_id"].split("/")[0] for hit in hits}
                seen.append((answer.json()["space_id"], labels, tuple(hit["score"] for hit in hits)))

        loads = [asyncio.create_task(ask()) for _ in range(8)]
        await asyncio.sleep(0.5)
        service.hold(releases["new"])
        service.activate(new, old, {old})
        await asyncio.sleep(0.5)
        begun = time.perf_counter()
        service.activate(old, new, {new})
        back = time.perf_counter() - begun
        await asyncio.sleep(0.5)
        stop.set()
        await asyncio.gather(*loads)
        return seen, back

    seen, back = concurrently(create_app(service), requests)
    assert back < 0.05
    spaces = {releases[label].manifest.space["id"]: {label} for label in ("old", "new")}
    assert len(spaces) == 2
    assert all(spaces[space] == labels for space, labels, _ in seen)
    assert [labels for _, labels, _ in (seen[0], seen[-1])] == [{"old"}, {"old"}]
    assert {"new"} in [labels for _, labels, _ in seen]
    # All asked the same, so it came from the cache: each release from its own encoder's vector.
    for label, release in releases.items():
        uncached = SearchService(release, Serve(query_cache=0))
        with TestClient(create_app(uncached), base_url=LOCAL) as client:
            own = [hit["score"] for hit in search(client, "river", k=5)["results"][0]["hits"]]
        (scores,) = {scores for _, labels, scores in seen if labels == {label}}
        assert scores == pytest.approx(own, abs=1e-6)
