"""Bad requests by the thousand: never a 5xx, always the documented shape, and the service answers afterwards."""

from __future__ import annotations

import asyncio
import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies as st
from indices import sample_passages, write_served_index
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from hybrid_ir.config.experiment import Serve
from hybrid_ir.serving.api import EmbeddingsResponse, ErrorResponse, SearchResponse
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.search_service import SearchService

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "index"
    write_served_index(folder, sample_passages())
    return SearchService(LocalRelease(str(folder)), Serve(deadline_ms=60_000))


@pytest.fixture(scope="module")
def app(service):
    return create_app(service)


@pytest.fixture(scope="module")
def http(app):
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def answers_still(http) -> bool:
    found = http.post("/search", json={"query": "river number 7", "k": 3})
    return found.status_code == 200 and len(found.json()["results"][0]["hits"]) == 3


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_openapi_document_holds_for_whatever_it_generates(service, mode):
    """Requests made from the document, right ones and wrong ones: statuses, types and bodies are those that it
    names.
    """
    # Schemathesis asks for the host "testserver", which a service answers that is open to all.
    app = create_app(SearchService(service.release, service.settings.model_copy(update={"allow_public": True})))
    operations = [result.ok() for result in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations()]
    assert {op.path for op in operations} == {
        "/v1/search",
        "/search",
        "/passages",
        "/passages/{doc_id}",
        "/v1/embeddings",
        "/v1/embed",
        "/v2/embed",
        "/embed",
        "/v1/rerank",
        "/v2/rerank",
        "/rerank",
        "/v1/models",
        "/v1/models/{name}",
        "/stats",
        "/readyz",
        "/healthz",
    }
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not len(operation.body):
            continue  # a request without parameters cannot be wrong

        @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers_as_documented(case):
            if isinstance(case.body, dict) and type(wanted := case.body.get("deadline_ms")) is int and wanted > 0:
                case.body["deadline_ms"] = max(
                    wanted, 60_000
                )  # a busy machine may answer a small one by 504, as it should
            case.call_and_validate(checks=CHECKS)

        answers_as_documented()


TEXTS = st.one_of(
    st.text(max_size=300),
    st.text(alphabet=st.characters(categories=["Cc", "Cf", "Zs", "So", "Mn"]), max_size=100),
    st.sampled_from(
        ["", " ", "\0", "👩‍👩‍👧‍👦" * 50, "ا ב ไ 中 a", "\u202e abc", "x" * 20_000, "x" * 1_000_000, "🦊" * 30_000]
    ),
)
NUMBERS = (
    st.integers() | st.sampled_from([0, 1, 10**9, -1, 2**63, 2**200]) | st.floats() | st.none() | st.text(max_size=3)
)
BODIES = st.fixed_dictionaries(
    {"query": TEXTS | st.lists(TEXTS, max_size=4)},
    optional={
        "like": st.none() | st.sampled_from(["en/7", "x"]) | TEXTS,
        "k": NUMBERS,
        "languages": st.none() | st.lists(st.sampled_from(["en", "ar", "th", "xx", "", "EN"]) | TEXTS, max_size=3),
        "metadata": st.none()
        | st.dictionaries(st.sampled_from(["year", "kind", "x"]) | st.text(max_size=3), NUMBERS, max_size=2),
        "min_score": NUMBERS,
        "offset": NUMBERS,
        "fields": st.none() | st.lists(st.sampled_from(["text", "metadata", "metadata.year", "x"]) | TEXTS, max_size=3),
        "policy": st.sampled_from(["strict", "best_effort", "x", None]),
        "deadline_ms": NUMBERS,
        "unknown": NUMBERS,
    },
)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(body=BODIES)
def test_no_search_that_anyone_can_write_is_a_server_error(http, body):
    # json.dumps writes NaN and infinities as JavaScript would, which is not JSON.
    answer = http.post("/search", content=json.dumps(body).encode())
    if answer.status_code == 200:
        SearchResponse.model_validate_json(answer.content)
    elif answer.status_code == 504:
        assert isinstance(body["deadline_ms"], int)
    else:
        assert 400 <= answer.status_code < 500
        assert ErrorResponse.model_validate_json(answer.content).error.message


EMBEDDINGS = st.fixed_dictionaries(
    {"input": TEXTS | st.lists(TEXTS, max_size=4) | st.lists(st.integers(), max_size=3)},
    optional={
        "model": st.none() | st.text(max_size=20),
        "encoding_format": st.sampled_from(["float", "base64", "x", None, 1]),
        "input_type": st.sampled_from(["query", "passage", "x", None]),
        "dimensions": NUMBERS,
        "user": NUMBERS | st.text(max_size=20),
        "unknown": NUMBERS,
    },
)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(body=EMBEDDINGS)
def test_no_embeddings_request_that_anyone_can_write_is_a_server_error(http, body):
    answer = http.post("/v1/embeddings", content=json.dumps(body).encode())
    if answer.status_code == 200:
        rows = EmbeddingsResponse.model_validate_json(answer.content).data
        assert len(rows) == (1 if isinstance(body["input"], str) else len(body["input"]))
    else:
        assert 400 <= answer.status_code < 500
        assert ErrorResponse.model_validate_json(answer.content).error.message


# What a header's value may hold on the wire: any byte but the line's end and NUL.
VALUES = st.binary(max_size=60).map(lambda value: value.translate(None, b"\0\r\n"))
HEADERS = st.dictionaries(
    st.sampled_from(
        ["host", "authorization", "content-type", "content-length", "content-encoding", "accept", "cookie", "origin",
         "x-forwarded-for", "x-forwarded-host", "forwarded", "range", "expect", "x"]
    ),
    VALUES | st.sampled_from([b"localhost", b"Bearer first", b"Bearer ", b"999999999999", b"-1", b"gzip", b"[::1"]),
    max_size=4,
)  # fmt: skip
PATHS = st.sampled_from(
    ["/", "/docs", "/openapi.json", "/healthz", "/readyz", "/stats", "/v1/models", "/search", "/v1/search",
     "/v1/embeddings", "/passages/", "/passages/en/7", "/passages/a\nb"]
)  # fmt: skip


async def raw_answer(app, method: str, path: str, query: bytes, headers: dict[str, bytes], body: bytes):
    """(status, headers, body) of a request as a server hands it over, whatever a client library would refuse."""
    messages = [{"type": "http.request", "body": body}]
    sent: list[dict] = []
    left = asyncio.Event()

    async def receive():
        if messages:
            return messages.pop()
        await left.wait()  # the client stays until it is answered
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(errors="surrogateescape"), "root_path": "", "query_string": query,
        "headers": [(name.encode(), value) for name, value in headers.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), content


@pytest.mark.parametrize("keys", [(), ("first",)])
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"]),
    path=PATHS | st.text(max_size=30).map(lambda rest: f"/{rest}"),
    query=st.binary(max_size=60),
    headers=HEADERS,
)
def test_no_header_query_string_or_path_is_a_server_error(service, keys, method, path, query, headers):
    asked = raw_answer(create_app(service, keys), method, path, query, headers, b'{"query": "a", "k": 1}')
    status, answered, content = asyncio.run(asked)
    assert status < 500
    assert status not in range(300, 400)
    assert b"location" not in answered
    if status >= 400:
        assert ErrorResponse.model_validate_json(content).error.message
    elif keys and path in ("/stats", "/v1/models", "/search", "/v1/search", "/v1/embeddings", "/passages/en/7"):
        assert headers["authorization"].lower().split() == [b"bearer", b"first"]


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=200), path=st.sampled_from(["/search", "/v1/embeddings"]))
def test_bytes_that_are_not_a_request_are_a_clear_4xx(http, body, path):
    answer = http.post(path, content=body)
    assert 400 <= answer.status_code < 500
    assert ErrorResponse.model_validate_json(answer.content).error.message


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00", "a\\ud83d b"])
def test_a_lone_surrogate_is_refused_as_no_json(http, escape):
    for path, field in (("/search", "query"), ("/v1/embeddings", "input")):
        answer = http.post(path, content=f'{{"{field}": "{escape}"}}')
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_json"


def test_the_service_still_answers(http):
    assert answers_still(http)
