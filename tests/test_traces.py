"""Traces of a request through gateway, encoder and shards: whose child a span is, what it says, and nothing when off.

The replicas of the distributed service run in this process, each with a tracer of its own, as they have in theirs.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import httpx
import pytest
from indices import sample_passages, write_served_index
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.responses import Response

from hybrid_ir.config import Serve
from hybrid_ir.index import read_manifest
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.layers.traced import traced
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.ray_serve import distributed_release
from hybrid_ir.serving.ray_serve.distributed_release import DistributedRelease, deployment_names
from hybrid_ir.serving.ray_serve.replicas import EncoderReplica, ShardReplica
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.serving.tracing import exporting
from hybrid_ir.serving.tracing.exporting import exporters, tracer_of
from hybrid_ir.serving.tracing.spans import Answering
from hybrid_ir.types import InputError

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
SECRET = "river of secrets"


class Kept:
    """An exporter, tracers that send to it, and what came."""

    def __init__(self) -> None:
        self._exporter, self._tracers = InMemorySpanExporter(), []

    def tracer(self, part: str = "gateway"):
        self._tracers.append(tracer_of(part, self._exporter))
        return self._tracers[-1]

    def spans(self):
        for tracer in self._tracers:
            tracer.span_processor.force_flush()
        return self.sent()

    def sent(self):
        return self._exporter.get_finished_spans()


@pytest.fixture
def kept():
    return Kept()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces") / "index"
    write_served_index(folder, sample_passages())
    return str(folder)


@pytest.fixture(scope="module")
def release(folder):
    return LocalRelease(folder)


def client(app) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


def of(release, kept: Kept, **settings) -> httpx.AsyncClient:
    return client(traced(create_app(SearchService(release, Serve(**settings))), kept.tracer()))


def ids(span) -> tuple[str, str, str | None]:
    """(trace, span, parent) in hexadecimal digits."""
    own, parent = span.context, span.parent
    return f"{own.trace_id:032x}", f"{own.span_id:016x}", None if parent is None else f"{parent.span_id:016x}"


def family(spans) -> Counter:
    """(span, its parent) by name."""
    names = {ids(span)[1]: span.name for span in spans}
    return Counter((span.name, names.get(ids(span)[2] or "", ids(span)[2])) for span in spans)


def test_a_search_is_a_trace_from_the_callers_span_to_each_shard(release, kept):
    answer = asyncio.run(of(release, kept).post("/v1/search", json={"query": SECRET}, headers=SAMPLED))
    assert answer.status_code == 200
    spans = kept.spans()
    assert {ids(span)[0] for span in spans} == {TRACE}
    assert family(spans) == {
        ("POST /v1/search", PARENT): 1,
        ("encode", "POST /v1/search"): 1,
        ("search", "POST /v1/search"): 2,
    }
    whole = next(span for span in spans if span.kind is SpanKind.SERVER)
    assert dict(whole.attributes) == {
        "http.request.method": "POST", "http.route": "/v1/search", "url.scheme": "http",
        "http.response.status_code": 200,
    }  # fmt: skip
    assert {span.attributes["hybrid_ir.shard"] for span in spans if span.name == "search"} == {"000", "001"}
    assert whole.resource.attributes["service.name"] == "hybrid-ir"
    assert whole.start_time <= min(span.start_time for span in spans)


def test_no_span_has_what_a_caller_wrote(release, kept):
    async def ask():
        http = of(release, kept, api_keys=())
        await http.post("/v1/search?q=secrets", json={"query": SECRET}, headers={"Authorization": "Bearer secrets"})
        await http.post("/v1/search", json={"query": SECRET, "languages": ["secrets"]})
        await http.get("/passages/secrets")
        await http.get("/secrets")
        await http.request("SECRETS", "/stats")

    asyncio.run(ask())
    spans = kept.spans()
    assert "secrets" not in " ".join(span.to_json() for span in spans).lower()
    served = [(span.name, span.attributes.get("http.response.status_code")) for span in spans if span.parent is None]
    assert served == [
        ("POST /v1/search", 200), ("POST /v1/search", 422), ("GET /passages/{doc_id}", 404), ("GET", 404),
        ("HTTP /stats", 405),
    ]  # fmt: skip
    assert all(span.status.status_code is StatusCode.UNSET for span in spans)  # faults of callers are no errors


def test_requests_of_one_batch_have_each_a_trace_that_is_whole(release, kept, monkeypatch):
    async def ask():
        gate, batches = asyncio.Event(), []
        service = SearchService(release, Serve(query_cache=0))
        encode = release.encode

        async def gated(texts, role):
            await gate.wait()
            batches.append(len(texts))
            return await encode(texts, role)

        monkeypatch.setattr(release, "encode", gated)
        http = client(traced(create_app(service), kept.tracer()))
        asking = [asyncio.create_task(http.post("/search", json={"query": f"river {n}"})) for n in range(4)]
        gate.set()
        await asyncio.gather(*asking)
        return batches

    batches = asyncio.run(ask())
    assert sum(batches) == 4
    assert max(batches) > 1
    spans = kept.spans()
    traces = {ids(span)[0] for span in spans}
    assert len(traces) == 4
    for trace in traces:
        own = [span for span in spans if ids(span)[0] == trace]
        assert family(own) == {("POST /search", None): 1, ("encode", "POST /search"): 1, ("search", "POST /search"): 2}
    sizes = [span.attributes["hybrid_ir.batch.size"] for span in spans if span.name == "encode"]
    assert sorted(sizes) == sorted(size for size in batches for _ in range(size))


def test_a_request_of_several_queries_has_each_batch_once(distributed, kept):
    async def ask():
        release = await distributed[0]()
        asked = {"query": [f"river {n}" for n in range(5)]}
        answer = await of(release, kept).post("/v1/search", json=asked, headers=SAMPLED)
        release.close()
        return answer

    assert asyncio.run(ask()).status_code == 200
    batches = sum(method == "encode" for method, _ in distributed[1])
    assert all(len(more["carriers"]) == 1 for _, more in distributed[1])
    found = family(kept.spans())
    assert found["encode", "POST /v1/search"] == found["encoder/encode", "encode"] == batches
    assert found["search", "POST /v1/search"] == 2 * batches


def test_what_was_not_sent_yet_is_sent_when_serve_ends_a_replica(folder, kept):
    replica = ShardReplica(folder, None, 0, 1)
    replica._answering = Answering("shard-000", kept.tracer("shard-000"))
    with replica._answering("search", [SAMPLED]):
        pass
    assert not kept.sent()
    replica.__del__()
    assert [span.name for span in kept.sent()] == ["shard-000/search"]


def test_a_process_that_ends_does_not_wait_for_a_collector_that_hangs(monkeypatch):
    monkeypatch.setattr(exporting, "SEND_S", 0.01)
    hangs, ended = threading.Event(), threading.Event()

    class Hanging(InMemorySpanExporter):
        def export(self, spans):
            hangs.set()
            ended.wait()
            return super().export(spans)

    tracer = tracer_of("gateway", Hanging())
    tracer.start_span("POST /v1/search").end()
    exporting.send_rest(tracer)
    assert hangs.wait(60)
    ended.set()


@pytest.mark.parametrize("headers", [{"traceparent": f"00-{TRACE}-{PARENT}-00"}, {"traceparent": "secrets"}])
def test_who_is_not_sampled_leaves_nothing_and_what_cannot_be_read_begins_a_trace(release, kept, headers):
    assert asyncio.run(of(release, kept).post("/search", json={"query": "a"}, headers=headers)).status_code == 200
    spans = kept.spans()
    if headers["traceparent"] == "secrets":
        assert {span.name for span in spans} == {"POST /search", "encode", "search"}
        assert TRACE not in {ids(span)[0] for span in spans}
    else:
        assert not spans


def test_errors_of_the_service_are_errors_of_its_span_and_health_checks_are_left_out(kept):
    async def app(scope, receive, send):
        await Response(status_code=503)(scope, receive, send)

    async def ask():
        http = client(traced(app, kept.tracer()))
        for path in ("/readyz", "/healthz", "/search"):
            await http.get(path)

    asyncio.run(ask())
    (span,) = kept.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "503"


class Handle:
    """A Serve handle whose deployment runs here; `carried` has what every call was given beside its arguments."""

    def __init__(self, replica, carried: list) -> None:
        self._replica, self._carried = replica, carried

    def __getattr__(self, method):
        def remote(*arguments, **more):
            if method != "ping":
                self._carried.append((method, more))
            return getattr(self._replica, method)(*arguments, **more)

        return SimpleNamespace(remote=remote)


@pytest.fixture
def distributed(folder, kept, monkeypatch):
    """What opens the distributed release of the folder, within a loop; and what its calls carried."""
    manifest, carried = read_manifest(folder), []
    encoder = EncoderReplica(folder, None, None, 1, "fp32")
    shards = [ShardReplica(folder, None, n, 1) for n in range(2)]
    for part, replica in (("encoder", encoder), ("shard-000", shards[0]), ("shard-001", shards[1])):
        replica._answering = Answering(part, kept.tracer(part))
    names = deployment_names(manifest)
    replicas = dict(zip(names, (encoder, *shards), strict=True))
    status = SimpleNamespace(applications={"app": SimpleNamespace(deployments=names)})
    monkeypatch.setattr(distributed_release.serve, "status", lambda: status)
    monkeypatch.setattr(
        distributed_release.serve, "get_deployment_handle", lambda name, _: Handle(replicas[name], carried)
    )

    async def opened():
        release = DistributedRelease(folder, manifest.index_version, "app")
        await release.wait(60)
        return release

    return opened, carried


def test_replicas_are_in_the_trace_of_the_request_that_they_work_for(distributed, kept):
    async def ask():
        release = await distributed[0]()
        http = of(release, kept)
        answers = [
            await http.post("/v1/search", json={"query": "river", "languages": ["ar"]}, headers=SAMPLED),
            await http.get("/passages/en/7", headers=SAMPLED),
            await http.post("/v1/embeddings", json={"input": "river"}, headers=SAMPLED),
        ]
        release.close()
        return answers

    assert [answer.status_code for answer in asyncio.run(ask())] == [200, 200, 200]
    spans = kept.spans()
    assert {ids(span)[0] for span in spans} == {TRACE}
    found = family(spans)
    assert found["encoder/encode", "encode"] == 2
    assert found["shard-000/search", "search"] == 1
    assert found["shard-000/find", "GET /passages/{doc_id}"] == found["shard-001/find", "GET /passages/{doc_id}"] == 1
    assert found["encode", "POST /v1/embeddings"] == 1
    far = next(span for span in spans if span.name == "shard-000/search")
    assert far.kind is SpanKind.SERVER
    assert dict(far.attributes) == {"rpc.service": "shard-000", "rpc.method": "search"}
    assert far.resource.attributes["service.instance.id"].startswith("shard-000-")


def test_without_traces_no_call_carries_anything(distributed, kept):
    async def ask():
        release = await distributed[0]()
        answer = await client(create_app(SearchService(release, Serve()))).post(
            "/v1/search", json={"query": "river"}, headers=SAMPLED
        )
        release.close()
        return answer

    assert asyncio.run(ask()).status_code == 200
    assert Counter(method for method, _ in distributed[1])["search"] == 2
    assert all(more == {} for _, more in distributed[1])
    assert not kept.spans()


def test_spans_go_where_the_variables_say(monkeypatch):
    received: list[tuple[str, str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, self.headers["x-token"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=ours")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "our-search")
    tracer = tracer_of("gateway")
    tracer.start_span("POST /v1/search").end()
    tracer.span_processor.force_flush()
    server.shutdown()
    ((path, token, body),) = received
    assert (path, token) == ("/v1/traces", "ours")
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"] == "our-search"
    assert [span.name for span in resource.scope_spans[0].spans] == ["POST /v1/search"]


def test_an_exporter_that_is_not_installed_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert exporters() == []
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert [one.__name__ for one in exporters()] == ["ConsoleSpanExporter"]
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "klingon")
    with pytest.raises(
        InputError, match=r"serve.traces needs the exporter klingon .*, and there are console, .*traces\]"
    ):
        exporters()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(InputError, match="pip install opentelemetry-exporter-otlp-proto-grpc"):
        exporters()
