"""The service as a user runs it: `hybrid-ir serve` on a Ray of its own, with replicas that die and releases that
change.
"""

from __future__ import annotations

import signal
import subprocess
from collections import Counter

import httpx
import pytest
from checkpoints import make_cross_encoder
from indices import write_served_index
from services import CLI, Asking, Load, Service, environment, free_port, labelled, wait_until, write_releases

from hybrid_ir.encoders import load_reranker
from hybrid_ir.types import InputError

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def indices(tmp_path_factory):
    return write_releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return make_cross_encoder(tmp_path_factory.mktemp("rerankers") / "our-reranker")


@pytest.fixture(scope="module")
def services(indices, reranker, tmp_path_factory):
    """(local, distributed): two services at once, because each takes half a minute to start."""
    folder = tmp_path_factory.mktemp("logs")
    both = (
        Service(indices[0], folder / "local", "serve.placement=local", f"serve.reranker={reranker}"),
        Service(
            indices[0],
            folder / "distributed",
            "serve.placement=distributed",
            "serve.replicas=2",
            "serve.cpus_per_replica=0.1",
            f"serve.reranker={reranker}",
        ),
    )
    yield both
    for service in both:
        service.stop()


@pytest.fixture(scope="module")
def local(services):
    return services[0].wait()


@pytest.fixture(scope="module")
def distributed(services):
    return services[1].wait()


QUERIES = ["river number 7", "النهر رقم 3", "แม่น้ำหมายเลข 9"]
ASKED = [
    {},
    {"languages": ["ar"]},
    {"languages": ["ar", "th"], "k": 50},
    {"metadata": {"year": 2001}},
    {"metadata": {"kind": "news"}, "languages": ["en"]},
]


def test_both_placements_give_the_same_answers(local, distributed):
    for settings in ASKED:
        answers = [service.client.search(QUERIES, **{"k": 7, **settings}) for service in (local, distributed)]
        first, second = ([[(h["doc_id"], h["text"]) for h in r["hits"]] for r in a["results"]] for a in answers)
        assert first == second
        scores = [[h["score"] for r in a["results"] for h in r["hits"]] for a in answers]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_words_are_searched_alike_in_both_placements(local, distributed):
    for lexical in ({}, {"fusion": "rrf", "depth": 30}, {"fusion": "none"}):
        answers = [s.client.search(QUERIES, k=12, offset=0, lexical=lexical) for s in (local, distributed)]
        assert answers[0]["results"] == answers[1]["results"]
        assert answers[0]["results"][0]["hits"]


POLICIES = [
    {"prefer": {"languages": {"ar": 0.3}}},
    {"quotas": {"th": 2, "*": 3}},
    {"group_by": "year"},
    {"group_by": "kind", "quotas": {"en": 1}, "prefer": {"languages": {"en": 0.2}}, "metadata": {"year": 2001}},
]


def test_policies_are_the_same_in_both_placements(local, distributed):
    """With an offset a query is encoded alone, so scores are equal bit for bit."""
    for policy in POLICIES:
        for query in QUERIES:
            answers = [service.client.search(query, k=9, offset=0, **policy) for service in (local, distributed)]
            first, second = (answer["results"] for answer in answers)
            assert first == second
            hits = first[0]["hits"]
            assert hits
            most = policy.get("quotas", {})
            counts = Counter(hit["language"] for hit in hits)
            assert all(count <= most.get(language, most.get("*", 9)) for language, count in counts.items())
            if policy.get("group_by") == "year":
                assert len({hit["metadata"]["year"] for hit in hits}) == len(hits) == 3
    plain = distributed.client.search(QUERIES[0], k=9, offset=0)["results"][0]["hits"]
    preferred = distributed.client.search(QUERIES[0], k=9, offset=0, **POLICIES[0])["results"][0]["hits"]
    assert [hit["doc_id"] for hit in preferred] != [hit["doc_id"] for hit in plain]


def test_the_second_stage_is_the_same_in_both_placements(local, distributed, reranker):
    asked = {"k": 7, "rerank": {"candidates": 20}}
    answers = [service.client.search(QUERIES, **asked) for service in (local, distributed)]
    first, second = ([[(h["doc_id"], h["reranked"]) for h in r["hits"]] for r in a["results"]] for a in answers)
    assert first == second
    assert all(ranked for hits in first for _, ranked in hits)
    scores = [[h["rerank_score"] for r in a["results"] for h in r["hits"]] for a in answers]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    body = {"query": QUERIES[0], "documents": QUERIES}
    ranked = [httpx.post(f"{s.url}/v1/rerank", json=body, trust_env=False).json() for s in (local, distributed)]
    right = load_reranker(str(reranker)).scores([(QUERIES[0], text) for text in QUERIES]).tolist()
    for answer in ranked:
        assert answer["model"] == "our-reranker"
        assert [each["index"] for each in answer["results"]] == sorted(range(3), key=lambda n: -right[n])
    assert len(distributed.replicas("reranker")) == 2
    assert not local.replicas("reranker")


def test_pages_fields_and_similar_passages_are_the_same_in_both_placements(local, distributed):
    """Page by page from one service and the other in turn: what one of them answers at once."""
    clients = [local.client, distributed.client]
    # A query encoded alone has one vector wherever that is done on this machine, so scores are equal bit for bit.
    for asked in ({"query": QUERIES[1]}, {"query": QUERIES[0], "languages": ["th"]}, {"like": "old/ar/3"}):
        whole = local.client.search(k=12, offset=0, fields=["language"], **asked)["results"][0]["hits"]
        pages = [clients[n % 2].search(k=3, offset=3 * n, fields=["language"], **asked) for n in range(4)]
        assert [hit for page in pages for hit in page["results"][0]["hits"]] == whole
        assert all(hit.keys() == {"position", "doc_id", "score", "language"} for hit in whole)
        least = whole[5]["score"]
        expected = [hit["doc_id"] for hit in whole if hit["score"] >= least]
        for client in clients:
            found = client.search(k=12, offset=0, min_score=least, **asked)["results"][0]["hits"]
            assert [hit["doc_id"] for hit in found] == expected


def test_a_passage_is_found_by_its_id_through_serves_proxy(local, distributed):
    for service in (local, distributed):
        for wanted in labelled("old")[::11]:
            found = service.client.passage(wanted.doc_id)
            assert {**wanted._asdict(), "index_version": found["index_version"]} == found
        with pytest.raises(InputError, match=r"no passage has the doc_id 'old/\.\./é%2F 🦊'"):
            service.client.passage("old/../é%2F 🦊")


def test_a_replica_of_each_kind_dies_under_load_and_no_request_fails(distributed):
    with Load(distributed.url) as load:
        for name in ("shard-000", "shard-001", "encoder"):
            replicas = distributed.replicas(name)
            assert len(replicas) == 2
            before = load.statuses[200]
            replicas[0].kill()
            wait_until(lambda before=before: load.statuses[200] > before + 20)
            wait_until(lambda name=name: len(distributed.replicas(name)) == 2, 120)
    assert set(load.statuses) == {200}
    assert {hits for _, hits in load.releases} == {frozenset({"old"})}


def test_a_shard_without_replicas_is_said_and_heals(distributed):
    wait_until(distributed.client.ready)
    http = httpx.Client(base_url=distributed.url, timeout=30, trust_env=False)
    shards = distributed.client.stats()["shards"]
    for replica in distributed.replicas("shard-001"):
        replica.kill()
    wait_until(lambda: http.get("/readyz").status_code == 503, 20)
    assert http.get("/readyz").json()["shards_missing"] == ["001"]
    partial = http.post("/search", json={"query": "river", "k": 100, "policy": "best_effort"})
    strict = http.post("/search", json={"query": "river", "k": 100})
    elsewhere = http.post("/search", json={"query": "river", "languages": ["ar"]})
    if http.get("/readyz").status_code == 503:  # it has not healed meanwhile, so the answers above were partial
        assert partial.status_code == 200
        assert partial.json()["coverage"] == {
            "complete": False, "shards": 1, "shards_total": 2, "shards_missing": ["001"],
            "languages_missing": sorted(shards[1]["languages"]),
        }  # fmt: skip
        assert len(partial.json()["results"][0]["hits"]) == shards[0]["passages"]
        assert strict.status_code == 503
        assert "001" in strict.json()["error"]["message"]
        assert strict.headers["Retry-After"] == "1"
        # Arabic is whole in the first shard: nothing is missing from this answer.
        assert elsewhere.status_code == 200
        assert elsewhere.json()["coverage"]["complete"]
    else:
        pytest.fail("the shard came back before the answers were read")
    wait_until(distributed.client.ready, 120)
    assert distributed.client.search("river", k=100)["coverage"]["complete"]


@pytest.mark.parametrize("placement", ["local", "distributed"])
def test_a_swap_and_its_rollback_under_load_fail_nothing_and_mix_nothing(request, indices, placement):
    service = request.getfixturevalue(placement)
    old, new = indices
    wait_until(service.client.ready, 120)
    with Load(service.url) as load:
        wait_until(lambda: load.statuses[200] > 10)
        swapped = service.command("swap", "--index", str(new), "serve.cpus_per_replica=0.1")
        assert swapped.returncode == 0, swapped.stdout + swapped.stderr
        assert "INFO" not in swapped.stdout + swapped.stderr  # Serve's own log is not for an operator's console
        assert service.client.stats()["index"] == str(new)  # the command ends when it serves, and not before
        assert service.client.stats()["previous_index"] == str(old)
        back = service.command("rollback")
        assert back.returncode == 0, back.stdout + back.stderr
        assert service.client.stats()["index"] == str(old)
    assert set(load.statuses) == {200}
    # Two spaces, each with the passages of its own release only.
    assert {hits for _, hits in load.releases} == {frozenset({"old"}), frozenset({"new"})}
    assert len({space for space, _ in load.releases}) == 2
    assert service.client.search("river")["space_id"] in {space for space, hits in load.releases if hits == {"old"}}


def test_a_release_that_cannot_be_served_is_refused_and_the_old_one_stays(local, indices, tmp_path):
    broken = tmp_path / "broken"
    write_served_index(broken, labelled("broken"), seed=2)
    path = broken / "shards" / "000" / "passages.arrow"
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    with Load(local.url, threads=2) as load:
        path.write_bytes(damaged)
        refused = local.command("swap", "--index", str(broken))
        path.unlink()  # its storage is gone
        lost = local.command("swap", "--index", str(broken))
    assert (refused.returncode, lost.returncode) == (2, 2)
    assert "passages.arrow is corrupt: its checksum" in refused.stderr
    assert "passages.arrow" in lost.stderr
    for said in (refused.stderr, lost.stderr):
        assert "cannot be served: gateway " in said
        assert "Traceback" not in said
    assert set(load.statuses) == {200}
    assert local.client.stats()["index"] == str(indices[0])
    # Mended, the same command goes on.
    path.write_bytes(content)
    assert local.command("swap", "--index", str(broken)).returncode == 0
    assert local.client.stats()["index"] == str(broken)
    assert local.command("rollback").returncode == 0
    assert local.client.stats()["index"] == str(indices[0])


def test_search_in_the_terminal(local):
    found = local.command("search", "river number 7", "-k", "2", "--languages", "en", "--url", local.url)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("The river number") == 2
    wrong = local.command("search", "river", "--languages", "xx", "--url", local.url)
    assert wrong.returncode == 2
    assert "no passage is in 'xx'; there are ar en th" in wrong.stderr


def test_metrics_reach_ray(local):
    for _ in range(2):
        local.client.search("river", languages=["ar"])
    with pytest.raises(InputError):
        local.client.search("river", languages=["xx"])
    missing: set[str] = set()
    metrics = local.metrics()

    def scraped() -> bool:
        text = metrics()
        wanted = (
            "# TYPE ray_hybrid_ir_request_duration_seconds histogram",
            "# TYPE ray_hybrid_ir_shard_duration_seconds histogram",
            "# TYPE ray_hybrid_ir_batch_size histogram",
            "# TYPE ray_hybrid_ir_requests_total counter",
            "ray_hybrid_ir_query_cache_hits_total{",
            "ray_hybrid_ir_query_cache_misses_total{",
            "ray_hybrid_ir_request_duration_seconds_bucket{",
            "ray_hybrid_ir_queue_length{",
            "ray_hybrid_ir_queue_oldest_seconds{",
            'code="200"',
            'code="422"',
            'language="ar"',
            f'index_version="{local.client.stats()["index_version"]}"',
        )
        missing.clear()
        missing.update(name for name in wanted if name not in text)
        return not missing

    try:
        wait_until(scraped, 40)
    except AssertionError as error:
        raise AssertionError(f"not among the metrics: {missing}") from error


def test_a_shard_whose_file_is_truncated_is_said_to_be_missing_and_heals(local, distributed, indices):
    """Also by a gateway, and by replicas of the shard, that start again while the file is damaged."""
    file = indices[0] / "shards" / "001" / "ids.npy"
    content = file.read_bytes()

    def partial(service) -> bool:
        try:
            answer = http.post(f"{service.url}/search", json={"query": "river", "k": 100, "policy": "best_effort"})
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and answer.json()["coverage"]["shards_missing"] == ["001"]

    with httpx.Client(timeout=30, trust_env=False) as http:
        for service in (local, distributed):
            wait_until(service.client.ready, 120)
        try:
            with file.open("r+b") as stream:
                stream.truncate(len(content) - 1)
            for service in (local, distributed):
                wait_until(lambda service=service: partial(service), 20)
                strict = http.post(f"{service.url}/search", json={"query": "river"})
                assert (strict.status_code, strict.json()["error"]["type"]) == (503, "shards_missing")
            for replica in (*local.replicas("hybrid-ir:gateway"), *distributed.replicas("shard-001")):
                replica.kill()
            wait_until(lambda: partial(local), 180)
            wait_until(lambda: partial(distributed), 20)
        finally:
            file.write_bytes(content)
        for service in (local, distributed):
            wait_until(service.client.ready, 180)
            assert service.client.search("river", k=100)["coverage"]["complete"]


def test_an_encoder_of_another_space_is_refused_by_name(indices, tmp_path):
    old, new = indices
    done = subprocess.run(
        [*CLI, "serve", "--index", str(old), "--checkpoint", str(new / "encoder"), f"serve.port={free_port()}"],
        capture_output=True, text=True, env=environment(), timeout=240,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "is not the one that" in done.stderr
    assert "they differ in weights" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stop_under_load_answers_whoever_was_in_and_refuses_whoever_comes(distributed):
    """It is the last of these tests: the service is gone afterwards."""
    wait_until(distributed.client.ready, 120)
    # No more than may wait beside the searches: else some would get 429.
    long = {"input": [f"river number {n}" for n in range(200)]}
    with (
        Asking(distributed.url, "/v1/search", {"query": "river", "k": 3}, threads=3) as searches,
        Asking(distributed.url, "/v1/embeddings", long) as embeddings,
        Asking(distributed.url, "/readyz") as ready,
    ):
        wait_until(lambda: len(embeddings.answers) >= 2 and len(searches.answers) >= 10)
        distributed.stop(signal.SIGTERM)
    refused = [answer for asking in (searches, embeddings) for answer in asking.answers if answer[2] == 503]
    assert refused
    for _, _, _, answer in refused:
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["error"]["type"] == "stopping"
    closed = min(answered for _, answered, _, _ in refused)
    # Whoever was in had been sent before the first refusal came back: one that is lost would be among these.
    before = [answer for asking in (searches, embeddings) for answer in asking.answers if answer[0] < closed]
    assert {status for _, _, status, _ in before} <= {200, 503}
    said = [answer.json() for _, _, status, answer in ready.answers if status == 503]
    assert said[0]["ready"] is False
    assert said[0]["stopping"] is True
    statuses = [status for _, _, status, _ in ready.answers]
    assert statuses[: statuses.index(503)] == [200] * statuses.index(503)
