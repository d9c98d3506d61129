"""A search by a policy over HTTP: languages that are preferred, quotas, groups and cursors.

The same from any cut of the passages, in both placements, alone or in a batch: what plain Python makes of all scores.
"""

from __future__ import annotations

import base64
import json
import random
from functools import cache

import pytest
import typer
from checkpoints import TEXTS
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import ask, write_served_index
from placements import LOCAL, clients_of
from starlette.testclient import TestClient

from hybrid_ir.cli.app import app
from hybrid_ir.client import SearchClient
from hybrid_ir.config.experiment import Serve
from hybrid_ir.index import query as query_module
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.release import ShardDown
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.serving.searching import asked as asked_module, by_policy
from hybrid_ir.types import InputError

pytestmark = pytest.mark.numbers

SETTINGS = Serve(max_k=60, max_queries=5, max_batch=4)
WORDS = " ".join(TEXTS).split()  # what the tiny encoder knows
SAID = random.Random(0)
LANGUAGES = ("de", "en", "es", "th")
QUERIES = ["Hauptstadt von France", "столица مصر", "One text, five times.", "capital de España, Seine?"]


def made_up():
    """32 groups in four languages, of which some lack a passage; five passages of one text; eleven without a group."""
    for n in range(32):
        for language in LANGUAGES[: 1 + n % 4] if n % 5 else LANGUAGES:
            metadata = {"year": 2000 + n % 3, **({} if n in (3, 7, 11, 19) else {"group": n})}
            yield IndexedPassage(f"{language}/{n}", " ".join(SAID.choices(WORDS, k=6)), language, metadata)
    for n in range(5):
        yield IndexedPassage(f"same/{n}", "One text, five times.", LANGUAGES[n % 2], {"year": 1999, "group": "same"})


PASSAGES = list(made_up())
BY_ID = {passage.doc_id: (number, passage) for number, passage in enumerate(PASSAGES)}
CUTS = {("Flat", 1): "language", ("Flat", 3): "random", ("IVF4,SQ8", 1): "language", ("IVF4,SQ8", 3): "random"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for (codec, shards), sharding in CUTS.items():
        made[codec, shards] = tmp_path_factory.mktemp("policies") / "index"
        write_served_index(made[codec, shards], PASSAGES, codec=codec, shards=shards, sharding=sharding)
    return made


@pytest.fixture(scope="module")
def services(folders):
    """{(codec, shards, placement): a client of a service}."""
    return clients_of(folders, SETTINGS)


@pytest.fixture(scope="module")
def scores(folders):
    """The score of every passage for a query, by its doc_id: from one answer that has them all."""
    settings = SETTINGS.model_copy(update={"max_k": 10_000})
    clients = {
        codec: TestClient(create_app(SearchService(LocalRelease(str(folders[codec, 1])), settings)), base_url=LOCAL)
        for codec in ("Flat", "IVF4,SQ8")
    }

    @cache
    def of(query, codec="Flat"):
        answer = ask(clients[codec], query, k=len(PASSAGES), offset=0)
        return {hit["doc_id"]: hit["score"] for hit in answer["results"][0]["hits"]}

    return of


@pytest.fixture
def http(services):
    with services["Flat", 3, "local"] as client:
        yield client


def hits(answer, place=0):
    return [(hit["doc_id"], hit["score"]) for hit in answer["results"][place]["hits"]]


def by_hand(scores, k, *, prefer=None, quotas=None, group_by=None, languages=None, metadata=None, min_score=None):
    """[(doc_id, score, ranked score, doc_ids of also)] of the hits, one passage after the other."""
    bonuses = (prefer or {}).get("languages", {})
    rank = {
        doc_id: score + bonuses.get(BY_ID[doc_id][1].language, 0.0)
        for doc_id, score in scores.items()
        if (languages is None or BY_ID[doc_id][1].language in languages)
        and (metadata is None or metadata.items() <= BY_ID[doc_id][1].metadata.items())
        and (min_score is None or score >= min_score)
    }
    order = sorted(rank, key=lambda doc_id: (-rank[doc_id], -scores[doc_id], BY_ID[doc_id][0]))
    found, used, shown = [], dict.fromkeys(LANGUAGES, 0), set()
    for doc_id in order:
        passage = BY_ID[doc_id][1]
        group = passage.metadata.get(group_by) if group_by else None
        quota = (quotas or {}).get(passage.language, (quotas or {}).get("*"))
        if len(found) == k or (quota is not None and used[passage.language] >= quota):
            continue
        if group is not None and group in shown:
            continue
        used[passage.language] += 1
        shown.add(group)
        same = [x for x in order if x != doc_id and group is not None and BY_ID[x][1].metadata.get(group_by) == group]
        found.append((doc_id, scores[doc_id], rank[doc_id], same))
    return found


def in_full(answer, place=0):
    """What `by_hand` gives."""
    return [
        (
            hit["doc_id"],
            hit["score"],
            hit.get("ranked_score", hit["score"]),
            [other["doc_id"] for other in hit.get("also", ())],
        )
        for hit in answer["results"][place]["hits"]
    ]


bonus = st.sampled_from([-0.1, 0.0, 0.02, 0.05, 1])
policies = st.fixed_dictionaries(
    {},
    optional={
        "prefer": st.dictionaries(st.sampled_from(LANGUAGES), bonus, min_size=1).map(lambda b: {"languages": b}),
        "quotas": st.dictionaries(st.sampled_from([*LANGUAGES, "*"]), st.integers(1, 6), min_size=1),
        "group_by": st.just("group"),
        "languages": st.sets(st.sampled_from(LANGUAGES), min_size=1).map(sorted),
        "metadata": st.just({"year": 2001}),
        "min_score": st.sampled_from([0.2, 0.5]),
    },
)
PROPERTY = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(max_examples=25, **PROPERTY)
@given(
    query=st.sampled_from(QUERIES), asked=policies, k=st.integers(1, 30), codec=st.sampled_from(["Flat", "IVF4,SQ8"])
)
def test_a_page_is_what_plain_python_makes_of_all_scores(services, scores, query, asked, k, codec):
    """All passages are considered for a page here, so that groups are whole, with a lossy codec too."""
    wanted = by_hand(scores(query, codec), k, **asked)
    for way, client in services.items():
        if way[0] == codec:
            answer = ask(client, query, k=k, offset=0, **asked)
            assert in_full(answer) == wanted, way
            assert not answer["results"][0].get("groups_cut")


@settings(max_examples=20, **PROPERTY)
@given(
    queries=st.lists(st.sampled_from(QUERIES), min_size=2, max_size=4, unique=True),
    asked=policies,
    k=st.integers(1, 12),
    small=st.booleans(),
)
def test_any_cut_and_placement_gives_one_answer_alone_or_in_a_batch(
    services, scores, monkeypatch, queries, asked, k, small
):
    monkeypatch.setattr(query_module, "EXACT_BELOW", 5 if small else 20_000)
    for codec in ("Flat", "IVF4,SQ8"):
        ways = [(codec, shards, placement) for shards in (1, 3) for placement in ("local", "distributed")]
        whole = ask(services[ways[0]], queries, k=k, **asked)
        for place, query in enumerate(queries):
            wanted = in_full(whole, place)
            if codec == "Flat":
                # Fewer are considered than for a page, so that `also` may name fewer.
                right = by_hand(scores(query), k, **asked)
                assert [hit[0] for hit in wanted] == [hit[0] for hit in right]
                assert all(set(some[3]) <= set(every[3]) for some, every in zip(wanted, right, strict=True))
            for way in ways:
                answer = ask(services[way], query, k=k, **asked)
                assert [
                    (x, pytest.approx(s, abs=1e-6), pytest.approx(r, abs=1e-6), o) for x, s, r, o in wanted
                ] == in_full(answer), way


@settings(max_examples=8, **PROPERTY)
@given(query=st.sampled_from(QUERIES), asked=policies, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_cursors_lead_through_the_answer_without_a_repeat_to_its_end(services, query, asked, sizes):
    for codec in ("Flat", "IVF4,SQ8"):
        ways = [(codec, shards, placement) for shards in (1, 3) for placement in ("local", "distributed")]
        for first, way in enumerate(ways):
            wanted = in_full(ask(services[way], query, k=60, offset=0, **asked))
            found, page, number = [], ask(services[way], query, k=sizes[0], offset=0, **asked), 0
            found += in_full(page)
            while page["next"] is not None:
                number += 1
                k = sizes[(first + number) % len(sizes)]
                page = ask(services[way], query, k=k, cursor=page["next"], **asked)
                assert [hit["position"] for hit in page["results"][0]["hits"]][:1] in ([], [len(found) + 1])
                found += in_full(page)
            assert found == wanted
            assert len({doc_id for doc_id, *_ in found}) == len(found)


def test_mine_first_unless_another_is_clearly_better(services, scores):
    """With one language and a margin: a passage of another stands before one of it by more than the margin only."""
    for margin in (0.0, 0.02, 0.1, 2.0):
        for client in services.values():
            answer = ask(client, QUERIES[0], k=60, offset=0, prefer={"languages": {"es": margin}})
            order = answer["results"][0]["hits"]
            for place, before in enumerate(order):
                for behind in order[place + 1 :]:
                    if before["language"] != "es" and behind["language"] == "es":
                        assert before["score"] > behind["score"] + margin or (
                            before["score"] == behind["score"] + margin
                        )
                    if before["language"] == "es" and behind["language"] != "es":
                        assert behind["score"] <= before["score"] + margin
    assert [hit["language"] for hit in order][: sum(p.language == "es" for p in PASSAGES)] == ["es"] * sum(
        p.language == "es" for p in PASSAGES
    )


def test_the_score_stays_the_cosine_and_the_least_score_is_of_it(http, scores):
    answer = ask(http, QUERIES[0], k=8, prefer={"languages": {"th": 0.5}})
    for hit in answer["results"][0]["hits"]:
        assert hit["score"] == pytest.approx(scores(QUERIES[0])[hit["doc_id"]], abs=1e-6)
        assert hit["ranked_score"] == hit["score"] + (0.5 if hit["language"] == "th" else 0.0)
    least = sorted(scores(QUERIES[0]).values())[-8]
    answer = ask(http, QUERIES[0], k=8, prefer={"languages": {"th": 0.5}}, min_score=least)
    assert all(hit["score"] >= least for hit in answer["results"][0]["hits"])
    # What is left out takes no place: as many are there as pass.
    assert len(answer["results"][0]["hits"]) in (7, 8)


def test_an_answer_without_a_policy_is_as_it_was(http):
    answer = ask(http, QUERIES[0], k=3)
    assert answer.keys() == {"results", "coverage", "space_id", "index_version", "timings_ms"}
    assert answer["results"][0].keys() == {"hits", "cut"}
    assert answer["results"][0]["hits"][0].keys() == {"position", "doc_id", "text", "language", "score", "metadata"}


# Groups


def test_more_is_asked_for_until_as_many_groups_are_found(http, monkeypatch):
    """Five of one text are one group: the first four considered of either language do not have three groups."""
    asked = []
    search = LocalRelease.search

    async def counted(self, shard, vectors, queries):
        asked.append(queries[0].k)
        return await search(self, shard, vectors, queries)

    monkeypatch.setattr(LocalRelease, "search", counted)
    monkeypatch.setattr(by_policy, "FIRST_DEPTH", 1)
    (result,) = ask(http, "One text, five times.", k=4, group_by="group")["results"]
    assert sorted(set(asked)) == [4, 16]
    assert (result["hits"][0]["doc_id"], result["groups_cut"]) == ("same/0", False)
    assert [other["doc_id"] for other in result["hits"][0]["also"]] == ["same/1", "same/2", "same/3", "same/4"]
    assert [other["language"] for other in result["hits"][0]["also"]] == ["en", "de", "en", "de"]
    assert len(result["hits"]) == 4


def test_where_no_more_is_considered_the_answer_says_that_it_was_cut(services, monkeypatch):
    monkeypatch.setattr(by_policy, "MOST_CONSIDERED", 3)
    monkeypatch.setattr(by_policy, "FIRST_DEPTH", 1)
    for client in services.values():
        (result,) = ask(client, "One text, five times.", k=3, group_by="group")["results"]
        assert ([hit["doc_id"] for hit in result["hits"]], result["groups_cut"]) == (["same/0"], True)
    monkeypatch.undo()
    for client in services.values():
        (result,) = ask(client, "One text, five times.", k=10, group_by="year")["results"]
        assert (len(result["hits"]), result["groups_cut"]) == (4, False)  # 1999 to 2002: there are no more


def test_at_most_so_many_of_a_group_are_named(http, monkeypatch):
    monkeypatch.setattr(by_policy, "MOST_ALSO", 2)
    (result,) = ask(http, "One text, five times.", k=3, group_by="group", offset=0)["results"]
    assert [other["doc_id"] for other in result["hits"][0]["also"]] == ["same/1", "same/2"]


def test_what_others_shall_be_like_is_in_no_answer(services):
    for client in services.values():
        (result,) = ask(client, None, like="same/2", k=3, group_by="group", prefer={"languages": {"en": 0.1}})[
            "results"
        ]
        assert (result["hits"][0]["doc_id"], result["hits"][0]["ranked_score"]) == (
            "same/1",
            pytest.approx(1.1, abs=1e-3),
        )
        assert [other["doc_id"] for other in result["hits"][0]["also"]] == ["same/3", "same/0", "same/4"]
        assert len(result["hits"]) == 3


class Failing(LocalRelease):
    """Its shard 1 goes down after `answers` searches."""

    answers = 1

    async def search(self, shard, vectors, queries):
        if shard == 1:
            self.answers -= 1
            if self.answers < 0:
                raise ShardDown("down")
        return await super().search(shard, vectors, queries)


def test_a_shard_that_goes_down_while_more_is_asked_for_is_missing(folders, monkeypatch):
    monkeypatch.setattr(by_policy, "FIRST_DEPTH", 1)
    release = Failing(str(folders["Flat", 3]))
    client = TestClient(create_app(SearchService(release, SETTINGS)), base_url=LOCAL)
    answer = client.post("/search", json={"query": "One text, five times.", "k": 4, "group_by": "group"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "shards_missing")
    release.answers = 1
    answer = ask(client, "One text, five times.", k=4, group_by="group", policy="best_effort")
    assert answer["coverage"]["shards_missing"] == ["001"]
    assert answer["results"][0]["hits"][0]["doc_id"] == "same/0"


# Cursors


def refusal(http, **body):
    answer = http.post("/search", json={"query": QUERIES[0], **body})
    error = answer.json()["error"]
    return answer.status_code, error["type"], error["param"], error["message"]


def test_a_cursor_of_another_search_or_of_none_is_refused(http):
    page = ask(http, QUERIES[0], k=3, offset=0, prefer={"languages": {"de": 0.1}})
    for other in ({}, {"prefer": {"languages": {"de": 0.2}}}, {"prefer": {"languages": {"de": 0.1}}, "query": "x"}):
        found = refusal(http, cursor=page["next"], **other)
        assert found[:3] == (422, "invalid_cursor", "cursor")
        assert "another search" in found[3]
    said = {"prefer": {"languages": {"de": 0.1}}, "cursor": page["next"]}
    assert ask(http, QUERIES[0], k=7, fields=[], policy="best_effort", **said)["results"][0]["hits"][0]["position"] == 4
    assert refusal(http, offset=0, **said)[:3] == (422, "invalid_request", "cursor")
    made = [[1, 2, 3, 4], ["a", "b", True, []], ["a", "b", 3, [-1]], ["a", "b", 3], {"a": 1}, "x", ["a", "b", 3, 4]]
    made += [["\ud800", "b", 3, []], ["a", "b", -3, []]]
    made += [["a", "b", 3, [0, 0]], ["a", "b", 3, [1, 0]], ["a", "b", 3, {}]]
    made += [[page["index_version"], "b", 3, [number]] for number in (3, 10**30)]  # there are three shards
    encoded = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode() for one in made]
    for text in ["", "x", "äöü", "=" * 7, "\x00", *encoded]:
        found = refusal(http, cursor=text)
        assert found[:3] == (422, "invalid_cursor", "cursor"), text
        assert "none that an answer gave" in found[3], text
    assert "next" not in ask(http, QUERIES[0], k=3)


def test_a_cursor_is_refused_once_another_version_is_served(folders, tmp_path):
    write_served_index(tmp_path / "other", PASSAGES[:40], codec="Flat", shards=2)
    service = SearchService(LocalRelease(str(folders["Flat", 3])), SETTINGS)
    client = TestClient(create_app(service), base_url=LOCAL)
    with client:
        first = ask(client, QUERIES[0], k=3, offset=0)
        other = LocalRelease(str(tmp_path / "other"))
        service.hold(other)
        service._held[service.release.key] = service._active
        service._active = service._held.pop(other.key)
        status, type_, param, message = refusal(client, cursor=first["next"])
        assert (status, type_, param) == (409, "index_changed", "cursor")
        new = other.manifest.index_version
        assert message == (
            f"cursor: it is of version {first['index_version']} of the index, and {new} is served now; "
            "begin anew with offset 0"
        )


def test_a_cursor_is_refused_where_other_shards_answer_than_before(folders):
    release = Failing(str(folders["Flat", 3]))
    client = TestClient(create_app(SearchService(release, SETTINGS)), base_url=LOCAL)
    whole = ask(client, QUERIES[0], k=3, offset=0, policy="best_effort")
    status, type_, _, message = refusal(client, k=3, cursor=whole["next"], policy="best_effort")
    assert (status, type_) == (409, "shards_changed")
    assert "the shards that did not answer were none, and now 001" in message
    partial = ask(client, QUERIES[0], k=3, offset=0, policy="best_effort")
    following = ask(client, QUERIES[0], k=3, cursor=partial["next"], policy="best_effort")
    assert not set(hits(partial)) & set(hits(following))


def test_the_last_page_ends_at_the_largest_k(http):
    page = ask(http, QUERIES[0], k=40, offset=0)
    last = ask(http, QUERIES[0], k=40, cursor=page["next"])
    assert ([hit["position"] for hit in last["results"][0]["hits"]], last["next"]) == (list(range(41, 61)), None)


# What is refused


@pytest.mark.parametrize(
    ("body", "type_", "param", "said"),
    [
        ({"prefer": {"languages": {"fr": 0.1}}}, "unknown_language", "prefer.languages", "no passage is in 'fr'"),
        ({"prefer": {"languages": {"en": 0.1, "en-US": 0.2}}}, "invalid_request", "prefer.languages", "'en' stands"),
        ({"prefer": {"languages": {"en": 2.5}}}, "invalid_request", "prefer.languages.en", "less than or equal to 2"),
        ({"prefer": {"languages": {}}}, "invalid_request", "prefer.languages", "at least 1 item"),
        ({"prefer": {"language": {"en": 1}}}, "invalid_request", "prefer", ""),
        ({"prefer": {"languages": {str(n): 0.1 for n in range(1001)}}}, "invalid_request", "prefer", "at most 1000"),
        ({"quotas": {"en": 0}}, "invalid_request", "quotas.en", "greater than or equal to 1"),
        ({"quotas": {"xx": 1}}, "unknown_language", "quotas", "no passage is in 'xx'; there are"),
        ({"quotas": {str(n): 1 for n in range(1001)}}, "invalid_request", "quotas", "at most 1000 values, got 1001"),
        ({"group_by": "family"}, "unknown_metadata", "group_by", "no passage has metadata 'family'; keys: group, year"),
        ({"group_by": ""}, "invalid_request", "group_by", "at least 1 character"),
    ],
)  # fmt: skip
def test_a_wrong_policy_is_refused_with_its_field(http, body, type_, param, said):
    status, *found = refusal(http, **body)
    assert status == 422
    assert found[0] == type_
    assert found[1].startswith(param)
    assert said in found[2]


def test_more_searches_than_a_request_may_be_are_refused(http, monkeypatch):
    monkeypatch.setattr(asked_module, "MOST_STRATA", 7)
    assert ask(http, QUERIES[0], quotas={"*": 1})
    status, _, param, message = refusal(http, query=QUERIES[:2], quotas={"*": 1})
    assert (status, param) == (422, "quotas")
    assert "4 searches for each of 2 queries are more than 7" in message


def test_tags_are_read_as_the_build_reads_them(http):
    plain = ask(http, QUERIES[0], prefer={"languages": {"es": 0.1}}, quotas={"es": 2})
    assert hits(ask(http, QUERIES[0], prefer={"languages": {"es-MX": 0.1}}, quotas={"spa": 2})) == hits(plain)


# The client


def test_the_client_asks_for_it_all(http):
    client = SearchClient(LOCAL)
    client._http = http
    asked = {"prefer": {"languages": {"de": 0.1}}, "quotas": {"*": 2}, "group_by": "group"}
    answer = client.search(QUERIES[0], k=3, offset=0, **asked)
    assert in_full(answer) == in_full(ask(http, QUERIES[0], k=3, offset=0, **asked))
    following = client.search(QUERIES[0], k=3, cursor=answer["next"], **asked)
    assert [hit["position"] for hit in following["results"][0]["hits"]] == [4, 5, 6]
    with pytest.raises(InputError, match="another search"):
        client.search("x", cursor=answer["next"])


def test_the_command_asks_for_a_policy_and_prints_what_a_hit_stands_for(http, monkeypatch, capsys):
    def in_process(url):
        client = SearchClient(url)
        client._http, client.close = http, lambda: None
        return client

    monkeypatch.setattr("hybrid_ir.client.SearchClient", in_process)
    words = ["--prefer", "en=0.5,de=-0.1", "--quotas", "en=1,*=2", "--group-by", "group"]
    typer.main.get_command(app).main(["search", "One text, five times.", "-k", "2", *words], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert "en  One text, five times. same/1" in lines[1]
    assert [line.split()[1:] for line in lines[2:6]] == [["en", "same/3"]] + [["de", f"same/{n}"] for n in (0, 2, 4)]
    assert lines[6].split()[0] == "2"


# Highlights


def test_hits_say_where_words_of_the_query_stand(services):
    for client in services.values():
        asked = {"k": 20, "highlights": True, "metadata": {"year": 1999}}
        two = ask(client, ["TEXT of five", "times"], **asked)["results"]
        for result, words in zip(two, (["text", "five"], ["times"]), strict=True):
            for hit in result["hits"]:
                assert [hit["text"][start:end] for start, end in hit["highlights"]] == words
        (result,) = ask(client, None, like="same/0", **asked)["results"]
        assert [hit["highlights"] for hit in result["hits"]] == [[[0, 3], [4, 8], [10, 14], [15, 20]]] * 4
        assert ask(client, "text", **asked, fields=[])["results"][0]["hits"][0]["highlights"] == [[4, 8]]
