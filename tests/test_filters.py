"""Filters: every form against a plain one over passages, what is refused, and the service's answers."""

from __future__ import annotations

import ast
import json
import re
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import write_served_index
from plain_filter import passes
from starlette.testclient import TestClient

from hybrid_ir.config import Serve
from hybrid_ir.index.filters.form import MOST_CONDITIONS, keys_of, read_filter
from hybrid_ir.index.filters.rows import passing
from hybrid_ir.index.passage_table import ROWS_PER_BATCH, PassageTable, write_passages
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.types import InputError

DATES = ["2024-05-31", "2024-05-31T12:00:00Z", "2024-05-31T14:00:00+02:00", "1969-07-20", "2024-02-30", "soon"]
NUMBERS = [0, 1, -1, 2001, 2001.5, -3.25, 1e-7, 1e300, 2**53 + 1]
VALUES = [*NUMBERS, True, False, "", "news", "2001", 'ünï\n"', *DATES]
KEYS = ["a", "b", "c"]
BOUNDS = st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), st.sampled_from(NUMBERS), min_size=1)
SPANS = st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), st.sampled_from(DATES[:4]), min_size=1)
MATCHES = (
    st.sampled_from(VALUES).map(lambda v: {"value": v})
    | st.tuples(st.sampled_from(["any", "except"]), st.lists(st.sampled_from(VALUES), min_size=1, max_size=4)).map(
        lambda pair: dict([pair])
    )
)  # fmt: skip
CONDITIONS = st.one_of(
    st.builds(lambda key, match: {"key": key, "match": match}, st.sampled_from(KEYS), MATCHES),
    st.builds(lambda key, span: {"key": key, "range": span}, st.sampled_from(KEYS), BOUNDS | SPANS),
    st.builds(lambda key: {"is_empty": {"key": key}}, st.sampled_from(KEYS)),
)
PARTS = st.sampled_from(["must", "must_not", "should"])
FILTERS = st.recursive(
    st.dictionaries(PARTS, st.lists(CONDITIONS, min_size=1, max_size=3), min_size=1),
    lambda inner: st.dictionaries(PARTS, st.lists(CONDITIONS | inner, min_size=1, max_size=2), min_size=1),
    max_leaves=4,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(VALUES)), max_size=30)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_filter=FILTERS, rows=ROWS)
def test_rows_that_pass_are_those_of_a_plain_filter(tmp_path, given_filter, rows):
    where = read_filter(json.loads(json.dumps(given_filter)))
    path = tmp_path / "passages.arrow"
    write_passages(path, [IndexedPassage(str(n), "t", "en", row) for n, row in enumerate(rows)], ["a", "b"])
    found = PassageTable(path).where(partial(passing, where)).tolist()
    assert found == [n for n, row in enumerate(rows) if passes(where, row)]
    assert hash(where) == hash(read_filter(given_filter))


def test_rows_of_several_batches_keep_their_numbers(tmp_path):
    count = 2 * ROWS_PER_BATCH + 5
    passages = (IndexedPassage(str(n), "t", "en", {"n": n}) for n in range(count))
    write_passages(tmp_path / "passages.arrow", passages, ["n"])
    where = read_filter({"must": [{"key": "n", "range": {"gte": ROWS_PER_BATCH - 2}}], "must_not": [
        {"key": "n", "range": {"gt": ROWS_PER_BATCH + 1, "lte": count - 2}}]})  # fmt: skip
    found = PassageTable(tmp_path / "passages.arrow").where(partial(passing, where)).tolist()
    assert found == [*range(ROWS_PER_BATCH - 2, ROWS_PER_BATCH + 2), count - 1]


def test_a_date_is_the_same_moment_in_any_zone_and_utc_without_one():
    where = read_filter(
        {"must": {"key": "at", "range": {"gte": "2024-05-31T14:00:00+02:00", "lt": "2024-05-31T12:00:01"}}}
    )
    assert passes(where, {"at": "2024-05-31T12:00:00Z"})
    assert not passes(where, {"at": "2024-05-31T14:00:00"})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], r"filter: it must be an object with must, must_not, should; got \[\]"),
        ({}, r"filter: it must be an object"),
        ({"most": []}, r"filter: there is no 'most'; there are must"),
        ({"must": []}, r"filter\.must: it is empty; leave it out"),
        ({"must": ["year"]}, r"filter\.must\[0\]: a condition is .* got 'year'"),
        ({"must": [{"key": "year"}]}, r"filter\.must\[0\]: a condition is .* got the keys key"),
        ({"must": [{"key": 7, "match": {"value": 1}}]}, r"must\[0\]\.key: it must be the name of .* got 7"),
        ({"must": [{"key": "year", "match": 2020}]}, r"match: it must have one of \"value\", \"any\" and \"except\""),
        ({"must": [{"key": "year", "match": {"any": []}}]}, r"match\.any: it must be a list of 1 to 1000 values"),
        ({"must": [{"key": "year", "match": {"value": None}}]}, r"a value is a text, a number, .* got None"),
        ({"must": [{"key": "year", "range": {}}]}, r"range: it must have one or more of gt, gte, lt, lte"),
        ({"must": [{"key": "year", "range": {"from": 1}}]}, r"range: it must have one or more of gt, gte, lt, lte"),
        ({"must": [{"key": "year", "range": {"gt": 1, "lt": "2024-01-01"}}]}, r"all be numbers or all be dates"),
        ({"must": [{"key": "year", "range": {"gt": "soon"}}]}, r"range\.gt: a bound is a number, or a date as 2024"),
        ({"must": [{"key": "year", "range": {"gt": True}}]}, r"range\.gt: a bound is a number.* got True"),
        ({"must": [{"key": "year", "range": {"gt": 10**400}}]}, r"range\.gt: a bound is a number"),
        ({"must": [{"key": "year", "range": {"gt": float("nan")}}]}, r"range\.gt: a bound is a number"),
        ({"must": [{"is_empty": "year"}]}, r"is_empty: it must be \{\"key\": \.\.\.\}, got 'year'"),
        ({"must": [{"should": [{"x": 1}]}]}, r"filter\.must\[0\]\.should\[0\]: a condition is"),
        ({"must": [{"is_empty": {"key": "a"}}] * (MOST_CONDITIONS + 1)}, r"filter: at most 64 conditions in all"),
    ],
)  # fmt: skip
def test_a_wrong_filter_is_refused_with_its_place_and_what_may_stand_there(content, says):
    with pytest.raises(InputError, match=says):
        read_filter(content)


def test_the_filters_of_the_documentation_can_be_read():
    page = (Path(__file__).parent.parent / "docs" / "serve.md").read_text()
    (example,) = re.findall(r"^lately = (\{.*?^\})", page, re.MULTILINE | re.DOTALL)
    assert sorted(keys_of(read_filter(ast.literal_eval(example)))) == ["draft", "published", "section"]
    conditions = re.findall(r"^\| `(\{.*\})` \|", page, re.MULTILINE)
    assert len(conditions) == 6
    for condition in conditions:
        read_filter({"must": [json.loads(condition)]})


def test_filters_that_lie_too_deep_in_each_other_are_refused():
    content = {"must": [{"is_empty": {"key": "a"}}]}
    for _ in range(8):
        content = {"must": [content]}
    with pytest.raises(InputError, match="filters may lie in each other 8 deep"):
        read_filter(content)


def test_the_keys_of_a_filter_are_those_of_all_its_conditions():
    inner = {"should": [{"key": "b", "range": {"lt": 1}}, {"is_empty": {"key": "c"}}]}
    assert sorted(keys_of(read_filter({"must": [{"key": "a", "match": {"value": 1}}, inner]}))) == ["a", "b", "c"]


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filters") / "index"
    days = [
        IndexedPassage(f"day/{n}", f"News of day {n}.", "en", {"at": f"2024-05-{n:02}", "n": n}) for n in range(1, 32)
    ]
    write_served_index(folder, [*days, IndexedPassage("none", "No day.", "de")], shards=2)
    service = SearchService(LocalRelease(str(folder)), Serve(max_k=100))
    with TestClient(create_app(service), base_url="http://localhost") as client:
        yield client


def found(http, **asked) -> set[str]:
    answer = http.post("/search", json={"query": "news", "k": 100, **asked})
    assert answer.status_code == 200, answer.text
    return {hit["doc_id"] for hit in answer.json()["results"][0]["hits"]}


def test_the_service_finds_what_passes_and_nothing_else(http):
    may = {"must": [{"key": "at", "range": {"gte": "2024-05-30"}}]}
    assert found(http, filter=may) == {"day/30", "day/31"}
    assert found(http, filter=may, metadata={"n": 31}) == {"day/31"}
    assert found(http, filter={"must": [{"is_empty": {"key": "n"}}]}) == {"none"}
    assert found(http, filter={"must_not": [{"key": "n", "range": {"gt": 2}}]}, languages=["en"]) == {"day/1", "day/2"}
    assert found(http, filter={"must": [{"key": "n", "range": {"gt": 31}}]}) == set()


@pytest.mark.parametrize(
    ("asked", "type", "param", "says"),
    [
        ({"must": [{"key": "year", "match": {"value": 1}}]}, "unknown_metadata", "filter", "keys: at, n"),
        ({"must": [{"key": "n", "range": {"gt": "x"}}]}, "invalid_filter", "filter", "filter.must[0].range.gt"),
        (7, "invalid_request", "filter", "filter: "),
    ],
)
def test_the_service_refuses_a_wrong_filter_by_its_place(http, asked, type, param, says):
    answer = http.post("/search", json={"query": "news", "filter": asked})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == (type, param)
    assert says in error["message"]
