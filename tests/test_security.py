"""What an attacker may send, and what it costs: each test is a claim of docs/security.md."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest
from indices import sample_passages, write_served_index
from starlette.testclient import TestClient

from hybrid_ir.config.experiment import Serve
from hybrid_ir.serving.api import EmbeddingsRequest, ErrorResponse, SearchRequest
from hybrid_ir.serving.checks import RequestError, parse
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.search_service import SearchService

LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("security") / "index"
    write_served_index(folder, sample_passages())
    return folder


@pytest.fixture(scope="module")
def http(folder):
    with TestClient(create_app(SearchService(LocalRelease(str(folder)), Serve())), base_url=LOCAL) as client:
        yield client


# Requests

MANY = 150_000
HUGE = {
    "a list of numbers": b'{"query": [' + b"1, " * MANY + b"1]}",
    "a list of lists": b'{"query": [' + b"[], " * MANY + b"1]}",
    "inputs that are numbers": b'{"input": [' + b"1, " * MANY + b"1]}",
    "languages": b'{"query": "a", "languages": [' + b"1, " * MANY + b"1]}",
    "metadata": b'{"query": "a", "metadata": {' + b", ".join(b'"%d": []' % n for n in range(MANY)) + b"}}",
    "unknown fields": b"{" + b", ".join(b'"%d": 1' % n for n in range(MANY)) + b"}",
    "a list as a number": b'{"query": "a", "k": [' + b"1, " * MANY + b"1]}",
    "a list as a choice": b'{"query": "a", "policy": [' + b"1, " * MANY + b"1]}",
    "a list as a metadata value": b'{"query": "a", "metadata": {"year": [' + b"1, " * MANY + b"1]}}",
    "a body that is a list": b"[" + b"1, " * MANY + b"1]",
    "a long number": b'{"query": "a", "k": ' + b"9" * MANY + b"}",
    "depth": b'{"query": ' + b"[" * MANY,
    "objects in objects": b'{"query":' * (MANY // 9),
}


@pytest.mark.parametrize("body", HUGE.values(), ids=HUGE)
def test_the_first_error_ends_the_reading_of_a_body(body):
    """Ten thousand errors that are gathered are ten megabytes: what is refused costs little more than its JSON."""
    model = EmbeddingsRequest if b'"input"' in body[:20] else SearchRequest
    tracemalloc.start()
    with pytest.raises(RequestError) as refused:
        parse(body, model, Serve(max_queries=MANY * 2))  # even where the operator allows as many
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.status in (400, 422)
    assert len(refused.value.message) < 300
    assert most < 25e6 + len(body)


@pytest.mark.parametrize("body", HUGE.values(), ids=HUGE)
def test_a_huge_body_is_refused_in_the_documented_shape(http, body):
    answer = http.post("/v1/embeddings" if b'"input"' in body[:20] else "/search", content=body)
    assert answer.status_code in (400, 422)
    assert ErrorResponse.model_validate_json(answer.content).error.message


def test_no_address_is_made_of_the_host_header(http):
    answer = http.post("/search/", json={"query": "a"}, headers={"Host": "10.9.8.7"}, follow_redirects=False)
    assert answer.status_code == 404
    assert "10.9.8.7" not in str(answer.headers) + answer.text


# Answers


def test_the_pages_carry_the_headers_that_keep_other_code_out(http):
    for route in ("/", "/docs"):
        headers = http.get(route).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "unsafe-eval" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


class Broken(LocalRelease):
    """It fails as a defect of ours would, with what was asked in its traceback's frames."""

    async def search(self, *_):
        raise ZeroDivisionError


@pytest.mark.parametrize("release", [LocalRelease, Broken])
def test_keys_reach_neither_the_log_nor_an_answer(folder, caplog, capfd, release):
    caplog.set_level("DEBUG")
    app = create_app(SearchService(release(str(folder)), Serve()), ("s3cret-of-ours",))
    with TestClient(app, base_url=LOCAL, raise_server_exceptions=False) as http:
        given = [{"Authorization": f"Bearer {key}"} for key in ("s3cret-of-ours", "s3cret-that-is-wrong")]
        answers = [http.post("/search", json={"query": "a", "k": k}, headers=h) for h in given for k in (1, 0)]
        answers += [http.get(route, headers=h) for h in given for route in ("/stats", "/nothing", "/openapi.json")]
    assert [answer.status_code for answer in answers[:4]] == [500 if release is Broken else 200, 422, 401, 401]
    assert ("ZeroDivisionError" in caplog.text) == (release is Broken), "the log of the crash is not the one read here"
    written = "".join(capfd.readouterr())
    assert "s3cret" not in written + caplog.text + "".join(answer.text + str(answer.headers) for answer in answers)


def test_every_test_that_the_document_names_is_there():
    """docs/security.md is what an operator reads: a claim whose test was renamed would be held by nothing."""
    tests = Path(__file__).parent
    text = (tests.parent / "docs" / "security.md").read_text()
    rows = re.findall(r"\| `(test_\w+\.py)`(?:: `(test_\w+)`)?", text)
    assert len(rows) > 30
    for file, name in rows:
        assert not name or f"def {name}(" in (tests / file).read_text(), (file, name)
        assert (tests / file).is_file(), file
