"""A search by words, alone and fused with the encoder's: the same from any cut of the passages, in both placements."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import ask, write_served_index
from placements import LOCAL, clients_of
from starlette.testclient import TestClient
from test_lexical import plain_scores
from test_search_options import PASSAGES, QUERIES
from typer.testing import CliRunner
from without_ray import without_ray

from hybrid_ir.cli.app import app
from hybrid_ir.client import SearchClient
from hybrid_ir.config.experiment import Index, Serve
from hybrid_ir.index.changes.change import replace_passages
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.lexical import LexicalQuery
from hybrid_ir.serving.api import ErrorResponse, SearchRequest
from hybrid_ir.serving.checks import RequestError
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.release import ShardDown
from hybrid_ir.serving.reranking.scorer import Scored
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.serving.searching.fused import check_lexical
from hybrid_ir.words import words_of

pytestmark = pytest.mark.numbers

SETTINGS = Serve(max_k=60, max_queries=5, max_batch=4)
CUTS = {("Flat", 1): "language", ("IVF4,SQ8", 3): "random"}
TEXTS = [passage.text for passage in PASSAGES]
FILTERS = [{}, {"languages": ["en"]}, {"metadata": {"year": 2001}}, {"languages": ["ar", "th"]}]
FUSIONS = [{}, {"depth": 25}, {"fusion": "rrf"}, {"weight": 0.6, "depth": 40}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for (codec, shards), sharding in CUTS.items():
        made[codec, shards] = tmp_path_factory.mktemp("lexical") / "index"
        write_served_index(
            made[codec, shards], PASSAGES, codec=codec, shards=shards, sharding=sharding, lexical=True
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def services(folders):
    return clients_of(folders, SETTINGS)


@pytest.fixture
def http(services):
    with services["IVF4,SQ8", 3, "local"] as client:
        yield client


def hits(answer, place=0):
    return [(hit["doc_id"], hit["score"]) for hit in answer["results"][place]["hits"]]


def passes(passage: IndexedPassage, asked) -> bool:
    of_language = "languages" not in asked or passage.language in asked["languages"]
    return of_language and all(passage.metadata.get(key) == value for key, value in asked.get("metadata", {}).items())


@cache
def scores_of(query: str) -> list[float]:
    return np.float32(plain_scores(TEXTS, query)).tolist()


def by_words(query: str, asked, k: int) -> list[tuple[str, float]]:
    """The lexical ranking by a plain loop: counts are of all passages, whatever the filter."""
    order = sorted((-s, n) for n, s in enumerate(scores_of(query)) if s > 0 and passes(PASSAGES[n], asked))
    return [(PASSAGES[n].doc_id, -score) for score, n in order[:k]]


def fused_plainly(dense, lexical, asked) -> list[tuple[str, float]]:
    number = {passage.doc_id: n for n, passage in enumerate(PASSAGES)}
    scores, words = {}, asked.get("weight", 0.3)
    for doc_id in {doc_id for doc_id, _ in dense + lexical}:
        total = 0.0
        for ranking, weight in ((dense, 1 - words), (lexical, words)):
            found = [(place, score) for place, (one, score) in enumerate(ranking, start=1) if one == doc_id]
            if not found:
                continue
            ((place, score),) = found
            if asked.get("fusion") == "rrf":
                total += 1 / (60 + place)
            elif ranking is lexical:
                total += weight * score / ranking[0][1]
            else:
                low, high = ranking[-1][1], ranking[0][1]
                total += weight * ((score - low) / (high - low) if high > low else 1.0)
        scores[doc_id] = total
    return sorted(scores.items(), key=lambda each: (-each[1], number[each[0]]))


@pytest.mark.parametrize("asked", FILTERS)
@pytest.mark.parametrize("query", QUERIES)
def test_words_alone_are_ranked_as_a_plain_loop_ranks_them(services, query, asked):
    for client in services.values():
        answer = ask(client, query, k=20, lexical={"fusion": "none"}, **asked)
        assert hits(answer) == by_words(query, asked, 20)
        assert answer["results"][0]["cut"] is False
        assert "dense" not in json.dumps(answer["results"])


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    queries=st.lists(st.sampled_from(QUERIES), min_size=1, max_size=3, unique=True),
    asked=st.sampled_from(FILTERS),
    lexical=st.sampled_from(FUSIONS),
    k=st.integers(1, 25),
)
def test_fused_hits_are_those_of_the_two_rankings_from_any_cut(services, queries, asked, lexical, k):
    depth = lexical.get("depth", SETTINGS.max_k)
    for (codec, shards, _), client in services.items():
        # A lossy codec's own ranking, as it answers alone: encoded in one batch as the fused one is.
        dense = ask(client, queries, k=depth, **asked)
        answer = ask(client, queries, k=k, lexical=lexical, **asked)
        for place, query in enumerate(queries):
            words = by_words(query, asked, depth)
            expected = fused_plainly(hits(dense, place), words, lexical)[:k]
            assert [doc_id for doc_id, _ in hits(answer, place)] == [doc_id for doc_id, _ in expected], (codec, shards)
            np.testing.assert_allclose([s for _, s in hits(answer, place)], [s for _, s in expected], rtol=1e-12)
            for hit in answer["results"][place]["hits"]:
                for name, ranking in (("dense", hits(dense, place)), ("lexical", words)):
                    there = [
                        {"position": n, "score": score}
                        for n, (doc_id, score) in enumerate(ranking, start=1)
                        if doc_id == hit["doc_id"]
                    ]
                    assert [hit[name]] == there if name in hit else there == []


@pytest.mark.parametrize("lexical", [{"fusion": "none"}, {"fusion": "rrf"}, {"depth": 13}])
def test_pages_put_together_are_one_answer_and_end_where_the_rankings_do(services, lexical):
    most = lexical.get("depth", SETTINGS.max_k)
    whole = hits(ask(services["IVF4,SQ8", 3, "local"], QUERIES[0], offset=0, k=most, lexical=lexical))
    pages, cursor = [], None
    while True:
        client = services["IVF4,SQ8", 3, ("local", "distributed")[len(pages) % 2]]
        begin = {"offset": 0} if cursor is None else {"cursor": cursor}
        page = ask(client, QUERIES[0], k=5, lexical=lexical, **begin)
        pages += hits(page)
        if (cursor := page["next"]) is None:
            break
        other = client.post("/search", json={"query": QUERIES[0], "k": 5, "cursor": cursor, "lexical": {"depth": 60}})
        assert other.json()["error"]["type"] == "invalid_cursor"
    assert pages == whole
    assert len({doc_id for doc_id, _ in pages}) == len(pages)


def test_who_asks_for_no_words_is_answered_as_by_an_index_without_them(services, tmp_path):
    write_served_index(tmp_path / "plain", PASSAGES, codec="IVF4,SQ8", shards=3, sharding="random")
    plain = TestClient(create_app(SearchService(LocalRelease(str(tmp_path / "plain")), SETTINGS)), base_url=LOCAL)
    for query in QUERIES:
        answers = [ask(client, query, k=20) for client in (plain, services["IVF4,SQ8", 3, "local"])]
        for answer in answers:
            del answer["timings_ms"], answer["index_version"]
        assert answers[0] == answers[1]
    refused = plain.post("/search", json={"query": "Rhein", "lexical": {}})
    assert refused.status_code == 422
    said = "lexical: this index was built without words; build it again with index.lexical=true, and swap to it"
    assert refused.json()["error"] == {"message": said, "type": "no_words", "param": "lexical"}


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"query": None, "like": "en/1"}, "like", "send a text"),
        ({"min_score": 0.1}, "min_score", "does not go with `min_score`"),
        ({"prefer": {"languages": {"en": 0.1}}}, "prefer", "does not go with `prefer`"),
        ({"quotas": {"en": 1}}, "quotas", "does not go with `quotas`"),
        ({"group_by": "year"}, "group_by", "does not go with `group_by`"),
        ({"lexical": {"fusion": "none"}, "query_language": "de"}, "query_language", "nothing is encoded; leave it out"),
        ({"lexical": {"fusion": "rrf", "weight": 0.5}}, "lexical.weight", "goes with fusion weighted, not with rrf"),
        ({"lexical": {"fusion": "none", "depth": 9}}, "lexical.depth", "with fusion rrf or weighted, not"),
        ({"lexical": {"depth": 61}}, "lexical.depth", "at most 60, got 61"),
        ({"lexical": {"depth": 9}}, "lexical.depth", "at least 10"),
        ({"lexical": {"depth": 9}, "offset": 5, "k": 5}, "lexical.depth", "at least 10"),
        ({"lexical": {"fusion": "sum"}}, "lexical.fusion", "'rrf', 'weighted' or 'none'"),
        ({"lexical": "only"}, "lexical", "valid dictionary"),
        ({"lexical": {"fusion": "weighted", "weight": 2.0}}, "lexical.weight", "less than or equal to 1"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_words_is_refused_by_its_name(http, body, param, said):
    answer = http.post("/search", json={"query": "Rhein", "lexical": {}, **body})
    assert answer.status_code == 422, answer.text
    ErrorResponse.model_validate_json(answer.content)
    assert answer.json()["error"]["param"] == param
    assert said in answer.json()["error"]["message"]


def test_a_task_is_not_left_unsaid_where_nothing_is_encoded(folders):
    request = SearchRequest.model_validate({"query": "a", "task": "question", "lexical": {"fusion": "none"}})
    with pytest.raises(RequestError, match=r"task: it picks the encoder's prompt, .* leave it out"):
        check_lexical(request, LocalRelease(str(folders["Flat", 1])), SETTINGS)


def test_a_query_of_too_many_words_is_refused_and_one_without_any_finds_none(http, monkeypatch):
    monkeypatch.setattr("hybrid_ir.serving.searching.fused.MOST_WORDS", 2)
    answer = http.post("/search", json={"query": " ".join(TEXTS[:3]), "lexical": {}})
    assert answer.status_code == 422
    assert "different words for a lexical search are more than 2" in answer.json()["error"]["message"]
    assert hits(ask(http, "?!", lexical={"fusion": "none"})) == []
    by_encoder = ask(http, "?!", k=5, lexical={})["results"][0]["hits"]
    assert [hit["dense"]["position"] for hit in by_encoder] == [1, 2, 3, 4, 5]


def test_a_request_of_too_many_postings_is_refused_before_a_shard_is_asked(http, monkeypatch):
    asked = {"k": 5, "lexical": {"fusion": "none"}}
    words = {word for query in QUERIES[:2] for word in words_of(query)}
    having = {word: sum(word in words_of(text) for text in TEXTS) for word in words}
    postings = sum(having[word] for query in QUERIES[:2] for word in set(words_of(query)))
    monkeypatch.setattr("hybrid_ir.serving.searching.fused.MOST_POSTINGS", postings)
    assert ask(http, QUERIES[:2], **asked)["results"]
    monkeypatch.setattr("hybrid_ir.serving.searching.fused.MOST_POSTINGS", postings - 1)
    refused = http.post("/search", json={"query": QUERIES[:2], **asked})
    assert refused.status_code == 422
    assert f"{postings:,} times or more, and {postings - 1:,} are the most" in refused.json()["error"]["message"]
    assert ask(http, QUERIES[:1], **asked)["results"]


class Watched(LocalRelease):
    """It notes how many queries came in each call, and answers lexical ones when it is let go on."""

    def __init__(self, index: str) -> None:
        super().__init__(index)
        self.calls, self.go = [], asyncio.Event()

    async def search(self, shard, vectors, queries):
        self.calls.append(len(queries))
        if queries[0].words is not None:
            await self.go.wait()
        return await super().search(shard, vectors, queries)


def searching(service: SearchService, queries, **body):
    return asyncio.ensure_future(service.search(SearchRequest.model_validate({"query": queries, "k": 2, **body})))


def test_a_call_to_a_shard_has_few_postings_however_many_queries_wait(folders, monkeypatch):
    async def calls(most: int) -> list[int]:
        monkeypatch.setattr("hybrid_ir.serving.batcher.MOST_POSTINGS", most)
        release = Watched(str(folders["Flat", 1]))
        release.go.set()
        service, lexical = SearchService(release, SETTINGS), {"fusion": "none"}
        assert (await searching(service, QUERIES[:3], lexical=lexical))["results"][0]["hits"]
        return release.calls

    assert asyncio.run(calls(10**6)) == [3]
    assert asyncio.run(calls(1)) == [1, 1, 1]


def test_a_flood_of_lexical_searches_is_refused_and_others_are_answered(folders):
    async def flood():
        release = Watched(str(folders["Flat", 1]))
        service = SearchService(release, SETTINGS.model_copy(update={"max_queue": 3}))
        lexical = {"lexical": {"fusion": "none"}}
        two, one = searching(service, QUERIES[:2], **lexical), searching(service, QUERIES[2], **lexical)
        with pytest.raises(RequestError, match="3 lexical searches are on their way already") as busy:
            await searching(service, QUERIES[0], **lexical)
        assert (busy.value.status, busy.value.type) == (429, "busy")
        while sum(release.calls) < 3:  # they are out of the queue, and hold nothing up there
            await asyncio.sleep(0.01)
        assert (await searching(service, QUERIES[0]))["results"][0]["hits"]
        one.cancel()  # who hangs up leaves a place
        await asyncio.wait([one])
        last = searching(service, QUERIES[3], **lexical)
        release.go.set()
        await asyncio.gather(two, last)
        await searching(service, QUERIES[:4], **lexical)  # alone, however many they are

    asyncio.run(flood())


def test_the_deadline_holds_for_the_reading_of_words_too(folders):
    release, go, read = LocalRelease(str(folders["Flat", 1])), threading.Event(), []

    def query(text):
        read.append(text)
        go.wait()
        return LexicalQuery((), 1.0)

    release.statistics = SimpleNamespace(query=query)

    async def late():
        try:
            await searching(SearchService(release, SETTINGS), QUERIES[:3], lexical={}, deadline_ms=1)
        finally:
            go.set()

    with pytest.raises(RequestError, match="deadline passed before the words") as error:
        asyncio.run(late())
    assert (error.value.status, error.value.type) == (504, "deadline_exceeded")
    assert len(read) <= 1, "nobody waits for the others"


def test_a_passage_that_is_replaced_is_found_by_its_new_words_alone(folders, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    folder = Path(shutil.copytree(folders["IVF4,SQ8", 3], tmp_path / "index"))
    (tmp_path / "new.jsonl").write_text(json.dumps({"doc_id": "same/2", "text": "Ebro ebro", "language": "en"}))
    replace_passages(str(folder), [str(tmp_path / "new.jsonl")], Index(recall_target=0), seed=0)
    http = TestClient(create_app(SearchService(LocalRelease(str(folder)), SETTINGS)), base_url=LOCAL)
    now = [*(text for n, text in enumerate(TEXTS) if PASSAGES[n].doc_id != "same/2"), "Ebro ebro"]
    ids = [*(passage.doc_id for passage in PASSAGES if passage.doc_id != "same/2"), "same/2"]
    for query in ("ebro", "One text, five times."):
        scores = np.float32(plain_scores(now, query)).tolist()
        order = sorted((-score, n) for n, score in enumerate(scores) if score > 0)[:20]
        found = hits(ask(http, query, k=20, lexical={"fusion": "none"}))
        assert found == [(ids[n], -score) for score, n in order]
    assert hits(ask(http, "ebro", lexical={"fusion": "none"}))[0][0] == "same/2"


class Lacking(LocalRelease):
    """Its second shard does not answer, nor does its encoder."""

    async def search(self, shard, vectors, queries):
        if shard == 1:
            raise ShardDown("shard 001 does not answer")
        return await super().search(shard, vectors, queries)

    async def encode(self, texts, role):
        raise ShardDown("the encoder does not answer")


def test_a_shard_that_is_missing_changes_no_score_and_words_alone_need_no_encoder(folders):
    release = Lacking(str(folders["IVF4,SQ8", 3]))
    http = TestClient(create_app(SearchService(release, SETTINGS)), base_url=LOCAL)
    query, asked = "One text, five times.", {"k": 60, "lexical": {"fusion": "none"}}
    strict = http.post("/search", json={"query": query, **asked})
    assert strict.json()["error"]["type"] == "shards_missing"
    answer = ask(http, query, policy="best_effort", **asked)
    assert answer["coverage"]["shards_missing"] == ["001"]
    found, every = hits(answer), by_words(query, {}, 60)
    assert 0 < len(found) < len(every)
    assert found == [each for each in every if each in found]
    assert http.post("/search", json={"query": query, "lexical": {}}).json()["error"]["type"] == "encoder_missing"


class Longest:
    """A reranker for whom the longest text is the best."""

    async def score(self, query, texts):
        sizes = np.asarray([len(text) for text in texts])
        return Scored(sizes.astype(np.float32), sizes, np.zeros(len(texts), bool))

    def up(self):
        return True

    def check(self):
        pass


def test_fused_hits_are_reranked_and_say_where_they_stood(folders):
    service = SearchService(LocalRelease(str(folders["IVF4,SQ8", 3])), SETTINGS, scorer=Longest())
    http = TestClient(create_app(service), base_url=LOCAL)
    candidates = {doc_id for doc_id, _ in hits(ask(http, QUERIES[0], k=8, lexical={}))}
    answer = ask(http, QUERIES[0], k=4, lexical={}, rerank={"candidates": 8}, highlights=True)["results"][0]
    sizes = [len(hit["text"]) for hit in answer["hits"]]
    assert sizes == sorted(sizes, reverse=True)
    assert {hit["doc_id"] for hit in answer["hits"]} <= candidates
    assert all({"dense", "lexical"} & hit.keys() for hit in answer["hits"])
    refused = http.post("/search", json={"query": "a", "lexical": {"depth": 10}, "rerank": {"candidates": 11}})
    assert refused.json()["error"]["param"] == "lexical.depth"


def test_the_example_of_the_page_is_answered(http, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")
    section = page[page.index("## Words beside vectors") :]
    section = section.replace('["de"]', '["en"]')  # no passage here is German
    body = re.search(r"-d '(\{.*\})'", section)
    assert body is not None
    answer = http.post("/v1/search", json=json.loads(body.group(1)))
    assert answer.status_code == 200, answer.text
    asked = []

    def answered(self, method, path, body=None):
        asked.append(body)
        return http.request(method, path, json=body).json()

    monkeypatch.setattr(SearchClient, "_ask", answered)
    block = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert block is not None
    exec(compile(block.group(1), "serve.md", "exec", dont_inherit=True), {})
    assert asked[0]["lexical"] == {"fusion": "weighted", "weight": 0.3}


@pytest.mark.parametrize(
    ("typed", "sent"),
    [("rrf", {"fusion": "rrf"}), ("weighted=0.3", {"fusion": "weighted", "weight": 0.3}), ("none", {"fusion": "none"})],
)
def test_the_command_line_asks_for_words(http, monkeypatch, typed, sent):
    asked = []

    def answered(self, method, path, body=None):
        asked.append(body)
        return http.request(method, path, json=body).json()

    monkeypatch.setattr(SearchClient, "_ask", answered)
    shown = CliRunner().invoke(app, ["search", "One text, five times.", "-k", "2", "--lexical", typed])
    assert shown.exit_code == 0, shown.output
    assert asked[0]["lexical"] == sent
    assert "same/0" in shown.output


def test_a_weight_that_is_no_number_is_said():
    with pytest.raises(Exception, match=r"'x' is no number") as raised:
        app(["search", "a", "--lexical", "weighted=x"], standalone_mode=False)
    assert not isinstance(raised.value, SimpleNamespace | typer.Exit)
