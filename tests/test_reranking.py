"""The second stage of a service: /v1/rerank in the forms of other servers, and a search whose hits are reranked.

The same from any cut of the passages, in both placements, alone or in a batch: what plain Python makes of all scores.
"""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import random
import re
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from checkpoints import TEXTS, make_cross_encoder
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import ask, write_served_index
from placements import LOCAL, Replicas
from starlette.testclient import TestClient

from hybrid_ir.cli.app import app
from hybrid_ir.client import SearchClient
from hybrid_ir.config.experiment import Serve
from hybrid_ir.encoders import load_reranker
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.serving.api import SearchRequest
from hybrid_ir.serving.checks import RequestError
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.ray_serve import distributed_release
from hybrid_ir.serving.ray_serve.distributed_release import DistributedScorer
from hybrid_ir.serving.ray_serve.gateway_metrics import GatewayMetrics
from hybrid_ir.serving.ray_serve.replicas import RerankerReplica
from hybrid_ir.serving.release import ShardDown
from hybrid_ir.serving.reranking import stage
from hybrid_ir.serving.reranking.local_scorer import LocalScorer
from hybrid_ir.serving.reranking.scorer import Scored
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.serving.searching.gathered import Shown

pytestmark = pytest.mark.numbers

SAID = random.Random(0)
LANGUAGES = ("de", "en", "es", "th")
QUERIES = ["Hauptstadt von France", "столица مصر", "One text, five times.", "capital de España, Seine?"]
WORDS = " ".join(TEXTS).split()
PASSAGES = [
    IndexedPassage(f"{n}", " ".join(SAID.choices(WORDS, k=4 + n % 9)), LANGUAGES[n % 4], {"group": n // 4, "n": n % 3})
    for n in range(60)
] + [IndexedPassage(f"same/{n}", "One text, five times.", LANGUAGES[n % 2], {"group": 99, "n": 0}) for n in range(5)]
PROPERTY = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


class Distributed:
    """The scorer of the distributed placement; what passes between is pickled, as by Ray."""

    def __init__(self, folder):
        self.replica = RerankerReplica(folder, 512, 1)

    async def score(self, query, texts):
        return pickle.loads(pickle.dumps(await self.replica.score(*pickle.loads(pickle.dumps((query, list(texts)))))))

    def up(self):
        return True

    def check(self):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_cross_encoder(tmp_path_factory.mktemp("rerankers") / "our-reranker"))


@pytest.fixture(scope="module")
def limits(folder):
    return Serve(
        max_k=30, max_queries=5, max_inputs=40, max_characters=1000, reranker=folder, rerank_deadline_ms=60_000
    )


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    made = {}
    for shards, sharding in ((1, "language"), (3, "random")):
        index = tmp_path_factory.mktemp("reranked") / "index"
        write_served_index(index, PASSAGES, codec="Flat", shards=shards, sharding=sharding)
        made[shards, "local"], made[shards, "distributed"] = LocalRelease(str(index)), Replicas(str(index))
    return made


@pytest.fixture(scope="module")
def services(releases, folder, limits):
    """{(shards, placement): a client of a service}."""
    scorers = {"local": LocalScorer(folder, 512, 1), "distributed": Distributed(folder)}
    return {
        way: TestClient(create_app(SearchService(release, limits, scorer=scorers[way[1]])), base_url=LOCAL)
        for way, release in releases.items()
    }


@pytest.fixture(scope="module")
def http(services):
    with services[3, "local"] as client:
        yield client


@pytest.fixture(scope="module")
def reranker(folder):
    return load_reranker(folder)


def with_scorer(releases, limits, scorer, **changes):
    """A service's client, and what it observed."""
    seen = []
    service = SearchService(
        releases[3, "local"],
        limits.model_copy(update=changes),
        lambda name, value, labels: seen.append((name, value)),
        scorer=scorer,
    )
    return TestClient(create_app(service), base_url=LOCAL), seen


class Slow(LocalScorer):
    """After `parts` parts it hangs."""

    def __init__(self, folder, parts):
        super().__init__(folder, 512, 1)
        self.left = parts

    async def score(self, query, texts):
        self.left -= 1
        if self.left < 0:
            await asyncio.sleep(3600)
        return await super().score(query, texts)


class Down(LocalScorer):
    def up(self):
        return False

    async def score(self, query, texts):
        raise ShardDown("reranker does not answer")


def sigmoid(score):
    return 1 / (1 + math.exp(-score))


def post(http, path, status=200, **body):
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


# The forms of other servers


def test_documents_are_ranked_as_coheres_and_jinas_clients_read_it(http, reranker):
    documents = [TEXTS[1], {"text": TEXTS[3], "title": "not looked at"}, TEXTS[4], TEXTS[1]]
    texts = [each if isinstance(each, str) else each["text"] for each in documents]
    scores = reranker.scores([(TEXTS[0], text) for text in texts]).tolist()
    order = sorted(range(4), key=lambda place: (-scores[place], place))
    assert abs(order.index(0) - order.index(3)) == 1, "equal documents stand side by side"
    for path in ("/v1/rerank", "/v2/rerank"):
        answer = post(http, path, query=TEXTS[0], documents=documents, model="our-reranker", max_tokens_per_doc=99)
        assert [result["index"] for result in answer["results"]] == order
        assert [result["relevance_score"] for result in answer["results"]] == pytest.approx(
            [sigmoid(scores[place]) for place in order]
        )
        assert answer["model"] == "our-reranker"
        assert re.fullmatch("[0-9a-f]{32}", answer["id"])
        assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 4 * 4
        assert not any("document" in result for result in answer["results"])
    answer = post(http, "/v1/rerank", query=TEXTS[0], documents=documents, top_n=2, return_documents=True)
    assert [(r["index"], r["document"]) for r in answer["results"]] == [(n, {"text": texts[n]}) for n in order[:2]]
    assert len(post(http, "/v1/rerank", query="x", documents=["a", "b"], top_n=9)["results"]) == 2


def test_texts_are_ranked_as_clients_of_text_embeddings_inference_read_it(http, reranker):
    texts = TEXTS[1:6]
    scores = reranker.scores([(TEXTS[0], text) for text in texts]).tolist()
    order = sorted(range(5), key=lambda place: (-scores[place], place))
    answer = post(http, "/rerank", query=TEXTS[0], texts=texts, truncate=True)
    assert answer == [{"index": n, "score": pytest.approx(sigmoid(scores[n]))} for n in order]
    answer = post(http, "/rerank", query=TEXTS[0], texts=texts, raw_scores=True, return_text=True)
    assert answer == [{"index": n, "score": pytest.approx(scores[n]), "text": texts[n]} for n in order]


def test_equal_documents_tie_however_far_apart_they_stand(http):
    """In two parts, padded to other lengths, their scores would differ in the last bits."""
    documents = ["One text.", *(" ".join(WORDS[: 3 + n]) for n in range(20)), "One text."]
    results = post(http, "/v1/rerank", query=TEXTS[0], documents=documents)["results"]
    first, second = (place for place, result in enumerate(results) if result["index"] in (0, 21))
    assert second == first + 1
    assert [results[first]["index"], results[second]["index"]] == [0, 21]
    assert results[first]["relevance_score"] == results[second]["relevance_score"]


def test_a_document_that_is_cut_says_so(http):
    answer = post(http, "/v1/rerank", query="x", documents=["short", "word " * 150])
    assert {result["index"]: result["cut"] for result in answer["results"]} == {0: False, 1: True}


def test_scores_of_any_size_have_a_relevance():
    assert [stage.relevance(score) for score in (-1e5, 0.0, 1e5)] == [0.0, 0.5, 1.0]
    assert stage.relevance(-3.0) == pytest.approx(sigmoid(-3.0))


@pytest.mark.parametrize(
    ("path", "body", "status", "type_", "param"),
    [
        ("/v1/rerank", {"documents": ["a"]}, 422, "invalid_request", "query"),
        ("/v1/rerank", {"query": "x", "documents": []}, 422, "invalid_request", "documents"),
        ("/v1/rerank", {"query": "x", "documents": ["a", 7]}, 422, "invalid_request", "documents.1"),
        ("/v1/rerank", {"query": "x", "documents": ["a", " "]}, 422, "invalid_request", "documents"),
        ("/v1/rerank", {"query": "", "documents": ["a"]}, 422, "invalid_request", "query"),
        ("/v1/rerank", {"query": "x", "documents": ["a" * 1001]}, 422, "invalid_request", "documents"),
        ("/v1/rerank", {"query": "x", "documents": ["a"] * 41}, 422, "invalid_request", "documents"),
        ("/v1/rerank", {"query": "x", "documents": ["a"], "top_n": 0}, 422, "invalid_request", "top_n"),
        ("/v1/rerank", {"query": "x", "documents": ["a"], "model": "rerank-v3.5"}, 404, "model_not_found", "model"),
        ("/rerank", {"query": "x", "texts": [{"text": "a"}]}, 422, "invalid_request", "texts.0"),
        ("/rerank", {"query": "x", "texts": ["a"] * 41}, 422, "invalid_request", "texts"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(http, path, body, status, type_, param):
    error = post(http, path, status, **body)["error"]
    assert (error["type"], error["param"]) == (type_, param)


def test_a_service_without_a_reranker_says_how_to_have_one(releases):
    http, _ = with_scorer(releases, Serve(), None)
    error = post(http, "/v1/rerank", 404, query="x", documents=["a"])["error"]
    assert (error["type"], "serve.reranker=FOLDER" in error["message"]) == ("no_reranker", True)
    error = post(http, "/search", 422, query="x", rerank={"candidates": 5})["error"]
    assert (error["type"], error["param"], "serve.reranker=FOLDER" in error["message"]) == (
        "no_reranker",
        "rerank",
        True,
    )
    assert "reranker" not in http.get("/readyz").json()


def test_documents_that_are_not_scored_in_time_are_an_error(releases, limits, folder):
    slow = Slow(folder, 0)
    http, _ = with_scorer(releases, limits, slow, deadline_ms=300)
    assert post(http, "/v1/rerank", 504, query="x", documents=["a"])["error"]["type"] == "deadline_exceeded"


# A search whose hits are reranked


def by_hand(http, reranker, query, k, candidates, **asked):
    """[(doc_id, score)] in the order of the reranker, then what was no candidate."""
    plain = ask(http, query, k=max(k, candidates), **asked)["results"][0]["hits"]
    scores = reranker.scores([(query, hit["text"]) for hit in plain[:candidates]])
    order = sorted(range(len(scores)), key=lambda place: (-float(scores[place]), place))
    order += range(len(scores), len(plain))
    return [(plain[place]["doc_id"], plain[place]["score"], place < len(scores)) for place in order][:k]


def found(answer, place=0):
    return [(hit["doc_id"], hit["score"], hit["reranked"]) for hit in answer["results"][place]["hits"]]


def rerank_scores(answer, place=0):
    return [hit.get("rerank_score") for hit in answer["results"][place]["hits"]]


asked_besides = st.fixed_dictionaries(
    {},
    optional={
        "languages": st.sets(st.sampled_from(LANGUAGES), min_size=1).map(sorted),
        "metadata": st.just({"n": 1}),
        "min_score": st.sampled_from([0.0, 0.4]),
        "quotas": st.just({"de": 2, "*": 3}),
        "group_by": st.just("group"),
    },
)


@settings(max_examples=12, **PROPERTY)
@given(
    queries=st.lists(st.sampled_from(QUERIES), min_size=1, max_size=3, unique=True),
    asked=asked_besides,
    k=st.integers(1, 12),
    candidates=st.sampled_from([1, 5, 20, 30]),
)
def test_any_cut_and_placement_gives_one_order_alone_or_in_a_batch(services, reranker, queries, asked, k, candidates):
    whole = ask(services[1, "local"], queries, k=k, rerank={"candidates": candidates}, **asked)
    for place, query in enumerate(queries):
        wanted = [
            (doc_id, pytest.approx(score, abs=1e-6), ranked)
            for doc_id, score, ranked in by_hand(services[1, "local"], reranker, query, k, candidates, **asked)
        ]
        assert found(whole, place) == wanted
        for way, client in services.items():
            alone = ask(client, query, k=k, rerank={"candidates": candidates}, **asked)
            assert found(alone) == wanted, way
            assert rerank_scores(alone) == rerank_scores(whole, place), "bit for bit"


def test_equal_scores_keep_the_order_of_the_input(http):
    answer = ask(http, "One text, five times.", metadata={"group": 99}, k=5, rerank={"candidates": 5})
    assert [hit[0] for hit in found(answer)] == [f"same/{n}" for n in range(5)]
    assert len(set(rerank_scores(answer))) == 1
    assert answer["results"][0]["reranked"] == {"candidates": 5, "scored": 5}


def test_the_score_stays_the_cosine_and_fields_and_highlights_follow_the_hits(http):
    answer = ask(http, QUERIES[0], k=4, rerank={"candidates": 12}, fields=["language"], highlights=True)
    plain = {hit["doc_id"]: hit for hit in ask(http, QUERIES[0], k=12, highlights=True)["results"][0]["hits"]}
    hits = answer["results"][0]["hits"]
    assert [hit["position"] for hit in hits] == [1, 2, 3, 4]
    for hit in hits:
        same = plain[hit["doc_id"]]
        assert hit.keys() == {"position", "doc_id", "language", "score", "reranked", "rerank_score", "highlights"}
        assert all(hit[name] == same[name] for name in ("score", "language", "highlights"))
    assert rerank_scores(answer) == sorted(rerank_scores(answer), reverse=True)
    assert answer["timings_ms"]["rerank"] > 0


def test_passages_like_one_are_reranked_by_its_text(http, reranker):
    answer = ask(http, None, like="7", k=5, rerank={"candidates": 9})
    plain = ask(http, None, like="7", k=9)["results"][0]["hits"]
    scores = reranker.scores([(PASSAGES[7].text, hit["text"]) for hit in plain])
    order = sorted(range(9), key=lambda place: (-float(scores[place]), place))[:5]
    assert [hit[0] for hit in found(answer)] == [plain[place]["doc_id"] for place in order]


def test_a_search_that_does_not_ask_is_as_it_was(http):
    answer = ask(http, QUERIES[0], k=3)
    assert answer["results"][0].keys() == {"hits", "cut"}
    assert answer["results"][0]["hits"][0].keys() == {"position", "doc_id", "text", "language", "score", "metadata"}
    assert "rerank" not in answer["timings_ms"]


def test_what_was_not_scored_in_time_stands_behind_and_says_so(releases, limits, folder, monkeypatch, reranker):
    """Two parts of four are scored, and the deadline ends the others: eight of fourteen candidates."""
    monkeypatch.setattr(stage, "TOGETHER", 4)
    slow = Slow(folder, 2)
    http, seen = with_scorer(releases, limits, slow, rerank_deadline_ms=1500)
    answer = ask(http, QUERIES[0], k=12, rerank={"candidates": 14})
    right = by_hand(http, reranker, QUERIES[0], 20, 8)
    wanted = [*right[:8], *((doc_id, score, False) for doc_id, score, _ in right[8:])][:12]
    assert found(answer) == [(doc_id, pytest.approx(score, abs=1e-6), ranked) for doc_id, score, ranked in wanted]
    assert answer["results"][0]["reranked"] == {"candidates": 14, "scored": 8}
    assert [score is None for score in rerank_scores(answer)] == [False] * 8 + [True] * 4
    assert ("rerank_late", 6) in seen
    assert "rerank_duration_seconds" in dict(seen)
    assert {"rerank_late"} <= GatewayMetrics.COUNTERS.keys()
    assert {"rerank_duration_seconds"} <= GatewayMetrics.HISTOGRAMS.keys()


class Recorder:
    """A scorer that keeps what it is asked, and likes long texts."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    async def score(self, query, texts):
        self.asked.append((query, list(texts)))
        lengths = np.array([len(text) for text in texts], np.float32)
        return Scored(lengths, lengths.astype(int), lengths < 0)


def rerank(hits: list[Shown], queries: list[str], **settings) -> tuple[list[Shown], list[tuple[str, list[str]]]]:
    scorer = Recorder()
    second = stage.Reranking(scorer, Serve(reranker="x", **settings), lambda *_: None)
    request = SearchRequest.model_validate({"query": queries, "k": 2, "rerank": {"candidates": 3}})
    shown = asyncio.run(second.reorder(hits, queries, request, time.perf_counter() + 60))
    return shown, scorer.asked


def test_of_a_passage_in_pieces_the_piece_that_was_found_is_read():
    long, short = (
        IndexedPassage("long", "begins so. answers so.", "en", {}),
        IndexedPassage("short", "short one", "en", {}),
    )
    hits = Shown([(short, 0.9), (long, 0.8)], [{}, {"piece": (11, 22)}])
    (shown,), asked = rerank([hits], ["a"])
    assert asked == [("a", ["short one", "answers so."])]
    assert [passage.doc_id for passage, _ in shown.hits] == ["long", "short"]
    assert shown.more is not None
    assert shown.more[0]["piece"] == (11, 22)


def test_a_long_query_makes_the_parts_smaller():
    hits = Shown([(IndexedPassage(f"{n}", f"text {n}", "en", {}), 1.0) for n in range(3)])
    assert len(rerank([hits], ["q"])[1]) == 1
    assert len(rerank([hits], ["q" * 4000])[1]) == 3


def test_the_requests_own_deadline_ends_the_second_stage_too(releases, limits, folder):
    slow = Slow(folder, 0)
    http, _ = with_scorer(releases, limits, slow)
    answer = ask(http, QUERIES[0], k=3, rerank={"candidates": 3}, deadline_ms=1500)
    assert [hit[2] for hit in found(answer)] == [False] * 3
    assert [hit[0] for hit in found(answer)] == [
        hit["doc_id"] for hit in ask(http, QUERIES[0], k=3)["results"][0]["hits"]
    ]


def test_a_reranker_that_does_not_answer_is_an_error_or_the_order_of_before(releases, limits, folder):
    http, _ = with_scorer(releases, limits, Down(folder, 512, 1))
    for path, body in (("/search", {"rerank": {"candidates": 3}}), ("/v1/rerank", {"documents": ["a"]})):
        assert post(http, path, 503, query="x", **body)["error"]["type"] == "reranker_missing"
    answer = ask(http, QUERIES[0], k=3, rerank={"candidates": 3}, policy="best_effort")
    assert answer["results"][0]["reranked"] == {"candidates": 3, "scored": 0}
    assert [hit[2] for hit in found(answer)] == [False] * 3
    ready = http.get("/readyz")
    assert (ready.status_code, ready.json()["ready"], ready.json()["reranker"]) == (503, False, False)
    assert ask(http, QUERIES[0], k=3)["results"], "what does not ask for it is answered"


class Held(Recorder):
    """It scores nothing until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def score(self, query, texts):
        await self.go.wait()
        return await super().score(query, texts)


def test_a_flood_of_reranked_searches_is_refused_and_others_are_answered(releases, limits):
    async def flood():
        scorer = Held()
        service = SearchService(releases[3, "local"], limits.model_copy(update={"max_queue": 3}), scorer=scorer)

        def search(queries, **body):
            body = {"query": queries, "k": 2, **body}
            return asyncio.ensure_future(service.search(SearchRequest.model_validate(body)))

        reranked = {"rerank": {"candidates": 3}}
        two, one = search(QUERIES[:2], **reranked), search(QUERIES[2], **reranked)
        with pytest.raises(RequestError, match=r"3 queries are being reranked already; .* or without `rerank`") as busy:
            await search(QUERIES[3], **reranked)
        assert (busy.value.status, busy.value.type) == (429, "busy")
        assert (await search(QUERIES[3]))["results"][0]["hits"], "what is not reranked does not wait for it"
        one.cancel()  # who hangs up leaves a place
        await asyncio.wait([one])
        last = search(QUERIES[3], **reranked)
        scorer.go.set()
        answers = await asyncio.gather(two, last)
        more = await search([*QUERIES[:3], QUERIES[3]], **reranked)  # alone, however many they are
        return [result["reranked"]["scored"] for answer in (*answers, more) for result in answer["results"]]

    assert asyncio.run(flood()) == [3] * 7


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"rerank": {"candidates": 31}}, "rerank.candidates", "at most 30, got 31"),
        ({"rerank": {"candidates": 0}}, "rerank.candidates", "greater than or equal to 1"),
        ({"rerank": {}}, "rerank.candidates", "required"),
        ({"rerank": True}, "rerank", "dictionary"),
        ({"rerank": {"candidates": 3}, "offset": 0}, "rerank", "has no pages; leave offset and cursor out"),
        ({"rerank": {"candidates": 3}, "cursor": "x"}, "rerank", "has no pages"),
        ({"rerank": {"candidates": 3}, "prefer": {"languages": {"de": 0.1}}}, "rerank", "bonuses of `prefer`"),
    ],
)
def test_what_cannot_be_reranked_is_refused(http, body, param, said):
    error = post(http, "/search", 422, query="x", **body)["error"]
    assert error["param"] == param
    assert said in error["message"]


def test_what_is_late_is_taken_out_of_the_queue_of_the_other_process(monkeypatch):
    """Or a replica under load would compute for requests that have been answered, and be late for all others."""
    cancelled = []

    class Remote:
        def __init__(self, method):
            self.method = method

        def __await__(self):
            if self.method == "score":
                yield from asyncio.sleep(3600).__await__()

        def cancel(self):
            cancelled.append(self.method)

    class Handle:
        def __getattr__(self, method):
            return SimpleNamespace(remote=lambda *_: Remote(method))

    monkeypatch.setattr(distributed_release.serve, "get_deployment_handle", lambda *_: Handle())

    async def late():
        scorer = DistributedScorer("app")
        await scorer.wait(10)
        ranking = stage.Reranking(scorer, Serve(), lambda *_: None)
        found = await ranking._score([("query", [str(n) for n in range(40)])], 0.05)
        scorer.close()
        return found

    assert asyncio.run(late()) == [[None] * 40]
    assert cancelled == ["score"] * 3


def test_the_client_asks_for_it(http):
    client = SearchClient(LOCAL)
    client._http = http
    answer = client.search(QUERIES[0], k=3, rerank={"candidates": 9})
    assert found(answer) == found(ask(http, QUERIES[0], k=3, rerank={"candidates": 9}))


def test_the_command_asks_for_it_and_says_how_far_it_came(http, releases, limits, folder, monkeypatch, capsys):
    late, _ = with_scorer(releases, limits, Slow(folder, 0), rerank_deadline_ms=50)
    for service, said in ((http, ""), (late, "reranked in time: 0 of 9; the others stand behind these")):
        client = SearchClient(LOCAL)
        client._http, client.close = service, lambda: None
        monkeypatch.setattr("hybrid_ir.client.SearchClient", lambda url, client=client: client)
        words = ["search", QUERIES[0], "-k", "3", "--rerank", "9"]
        typer.main.get_command(app).main(words, standalone_mode=False)
        lines = capsys.readouterr().out.splitlines()
        wanted = found(ask(service, QUERIES[0], k=3, rerank={"candidates": 9}))
        assert [line.split()[-1] for line in lines[1:4]] == [doc_id for doc_id, *_ in wanted]
        assert lines[4:] == ([said] if said else [])


def test_the_pages_example_is_answered_as_the_page_says(http):
    """docs/serve.md: the body of the example of a search, and of the example of /v1/rerank."""
    page = (Path(__file__).parents[1] / "docs" / "serve.md").read_text()
    section = page.partition("## A second stage")[2].partition("\n## ")[0]
    bodies = [(path, json.loads(body)) for path, body in re.findall(r"localhost:8000(\S+)\s[\s\\]*-d '(.+?)'", section)]
    assert [path for path, _ in bodies] == ["/v1/search", "/v1/rerank"]
    for path, body in bodies:
        answer = post(http, path, **body)
        assert len(answer["results"][0]["hits"] if path == "/v1/search" else answer["results"]) == 2
