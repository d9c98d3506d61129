"""The door of a gateway: whoever is in is answered, whoever comes once the service stops is not let in."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import httpx
import pytest
from indices import sample_passages, write_served_index
from starlette.responses import PlainTextResponse

from hybrid_ir.config import Serve
from hybrid_ir.serving.checks import RequestError
from hybrid_ir.serving.layers import door as doors
from hybrid_ir.serving.layers.door import Door
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.ray_serve import gateway as gateways, registry as registries, swapping, writer as writers
from hybrid_ir.serving.ray_serve.gateway import Gateway
from hybrid_ir.serving.ray_serve.registry import Releases
from hybrid_ir.serving.search_service import SearchService


class Stopping:
    """A service behind a door; each answer waits for `answer`."""

    def __init__(self) -> None:
        self.stopping, self.door, self.answer = False, Door(), asyncio.Event()
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.door.around(self._app, lambda: self.stopping)), base_url="http://x"
        )

    async def _app(self, scope, receive, send):
        if scope["path"] == "/broken":
            raise ZeroDivisionError
        if scope["path"] != "/readyz":
            await self.answer.wait()
        await PlainTextResponse("answered")(scope, receive, send)


def test_who_is_in_is_answered_and_who_comes_is_refused_until_all_have_left(monkeypatch):
    monkeypatch.setattr(doors, "LEAVE_S", 0)

    async def stop():
        service = Stopping()
        inside = [asyncio.create_task(service.http.post("/v1/search")) for _ in range(3)]
        while service.door.inside < 3:
            await asyncio.sleep(0)
        service.stopping = True
        late = await service.http.post("/v1/search")
        assert (late.status_code, late.headers["Retry-After"]) == (503, "1")
        assert late.json()["error"]["type"] == "stopping"
        assert (await service.http.get("/readyz")).status_code == 200  # the service says there what is the matter
        assert not await service.door.all_left(0.05)  # whoever stops it does not wait for ever
        service.answer.set()
        assert await service.door.all_left(60)
        assert [(await one).text for one in inside] == ["answered"] * 3

    asyncio.run(stop())


def test_a_request_that_fails_has_left_too():
    async def fail():
        service = Stopping()
        with pytest.raises(ZeroDivisionError):
            await service.http.post("/broken")
        assert await service.door.all_left(0)

    asyncio.run(fail())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("door") / "index"
    write_served_index(folder, sample_passages())
    return str(folder)


def gateway_of(release) -> Gateway:
    """A gateway as it is after its start, without Ray."""
    gateway = object.__new__(Gateway)
    gateway._settings = Serve()
    gateway._service, gateway._door = SearchService(release, gateway._settings), Door()
    gateway._keys, gateway._write_keys, gateway._writer, gateway._tracer = (), (), None, None
    gateway._metrics = SimpleNamespace(observe=lambda *_: None)
    return gateway


def test_a_gateway_that_is_told_to_stop_answers_what_is_in_flight_and_says_so_when_it_has(folder, monkeypatch):
    async def stop():
        release, gate, searching = LocalRelease(folder), asyncio.Event(), asyncio.Event()
        encode = release.encode

        async def gated(texts, role):
            searching.set()
            await gate.wait()
            return await encode(texts, role)

        monkeypatch.setattr(release, "encode", gated)
        gateway = gateway_of(release)
        app = gateway.__serve_build_asgi_app__()
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
        assert (await http.get("/readyz")).json()["ready"]
        search = asyncio.create_task(http.post("/v1/search", json={"query": "river", "k": 3}))
        await searching.wait()
        releases = Releases({})
        spec = {"index": release.index, "version": release.manifest.index_version, "checkpoint": None, "app": None}
        await releases.deployed("app", "first", spec)
        following = asyncio.create_task(gateway._follow(await releases.stop("app")))
        while not gateway._service.stopping:
            await asyncio.sleep(0)
        ready = await http.get("/readyz")
        assert ready.status_code == 503
        assert (ready.json()["ready"], ready.json()["stopping"]) == (False, True)
        for path, body in (("/v1/search", {"query": "river"}), ("/v2/embed", {"texts": ["a"]})):
            refused = await http.post(path, json=body)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert refused.json()["detail"].startswith("the service is stopping")
        assert (await http.get("/healthz")).status_code == 200
        assert not following.done()  # whoever stops it is not told yet
        gate.set()
        await following
        answer = await search
        assert answer.status_code == 200
        assert len(answer.json()["results"][0]["hits"]) == 3
        release.close()

    asyncio.run(stop())


def test_a_gateway_hears_of_a_stop_while_it_loads_and_loads_no_further(folder, monkeypatch):
    monkeypatch.setattr(gateways, "LISTEN_S", 0)

    async def stop():
        release, releases, loading = LocalRelease(folder), Releases({}), asyncio.Event()
        gateway = gateway_of(release)

        async def state(app):
            return await releases.state(app)

        async def opened(spec):
            loading.set()
            await asyncio.Event().wait()  # for ever

        gateway._app, gateway._number, gateway._loaded, gateway._open = "app", -1, {release.key: None}, opened
        gateway._registry = SimpleNamespace(state=SimpleNamespace(remote=state))
        spec = {"index": release.index, "version": release.manifest.index_version, "checkpoint": None, "app": None}
        first = await releases.deployed("app", "first", spec)
        proposed = await releases.propose("app", first["number"], {**spec, "version": "2"}, loading=True)
        following = asyncio.create_task(gateway._followed(proposed))
        await loading.wait()
        assert not gateway._service.stopping
        stopped = await releases.stop("app")
        assert await following == stopped
        assert gateway._service.stopping
        assert gateway._number == stopped["number"]
        assert gateway._loaded == {release.key: None}
        release.close()

    asyncio.run(stop())


A = {"index": "/a", "version": "1", "checkpoint": None, "app": None}


class Running:
    """What swaps and stops ask: a registry in this process, and what Serve says of the gateways. Each `reports` is
    preceded by the next of `events`."""

    def __init__(self, monkeypatch, **gateways: str) -> None:
        self.releases, self.asked, self.events = Releases({}), [], []
        self.do("deployed", "first", A)
        monkeypatch.setattr(swapping._Service, "_ask", lambda service, *given, **named: self.ask(*given, **named))
        monkeypatch.setattr(swapping._Service, "_gateways", lambda service: gateways)
        monkeypatch.setattr(registries, "retire", lambda state: [])
        monkeypatch.setattr(swapping.time, "sleep", lambda seconds: None)

    def ask(self, method, app, *given, **named):
        self.asked.append(method)
        if method == "reports" and self.events:
            self.events.pop(0)()
        return asyncio.run(getattr(self.releases, method)(app, *given, **named))

    def do(self, method, *given, **named):
        return asyncio.run(getattr(self.releases, method)("app", *given, **named))

    @property
    def state(self):
        return self.do("state")

    def says(self, gateway: str, serves: str = "1", *loaded: str, number: int | None = None):
        self.releases._gateways.setdefault("app", {})[gateway] = {
            "number": self.state["number"] if number is None else number,
            "loaded": {f"/a@{version}": None for version in (serves, *loaded)},
            "serves": f"/a@{serves}",
        }


def test_whoever_stops_a_service_waits_for_every_gateway_that_has_requests_and_for_no_other(monkeypatch):
    service = Running(monkeypatch, g1="RUNNING", g2="STOPPING", g3="STARTING", g4="STOPPING")
    for gateway, number in (("g1", 2), ("g2", 1), ("g3", 1), ("dead", 1)):
        service.says(gateway, number=number)  # and g4 never came to say anything
    service.events = [lambda: None, lambda: service.says("g2")]  # it has answered what it was asked
    swapping.let_finish("app", None, 60)
    assert service.asked == ["stop", "reports", "reports"]
    swapping.let_finish("another", None, 60)  # one that never served
    assert service.asked[3:] == ["stop"]


def test_a_gateway_that_has_not_come_to_its_first_report_holds_no_change_up(monkeypatch):
    service = Running(monkeypatch, g1="RUNNING", g2="STARTING", g3="STARTING", g4="STOPPING")
    service.says("g3")
    service.events = [
        lambda: (service.says("g1", "1", "2"), service.says("g4")),
        lambda: service.says("g3", "1", "2"),
        lambda: service.says("g1", "2"),
        lambda: service.says("g3", "2"),
    ]
    swapping.turn_to("app", None, "/a", "2")
    assert not service.events  # it waited for g3, which has reported, each time
    assert service.state["active"]["version"] == "2"


@pytest.mark.parametrize("loaded", [False, True])
def test_a_change_does_not_wait_for_gateways_that_stop(monkeypatch, loaded):
    service = Running(monkeypatch, g1="RUNNING")

    def stop():
        if loaded:  # so that the stop falls between that and the activation
            service.says("g1", "1", "2")
        service.do("stop")

    service.says("g1")
    service.events = [stop]
    with pytest.raises(swapping.Stopping, match="the service is stopping"):
        swapping.turn_to("app", None, "/a", "2")
    assert service.state["active"]["version"] == "1"


def test_the_next_writer_takes_over_what_a_killed_one_left_and_nothing_of_an_operator(monkeypatch):
    service = Running(monkeypatch, g1="RUNNING")
    service.do("propose", 1, {**A, "version": "2"}, loading=True)
    service.events = [lambda: service.says("g1", "1", "3"), lambda: service.says("g1", "3")]
    swapping.turn_to("app", None, "/a", "3")
    assert (service.state["active"]["version"], service.state["candidate"]) == ("3", None)
    other = {**A, "index": "/b"}
    service.do("propose", service.state["number"], other, loading=True)
    with pytest.raises(swapping.Unserved, match="another swap of /b is under way"):
        swapping.turn_to("app", None, "/a", "4")
    assert service.state["candidate"] == other


def test_whoever_wrote_while_the_service_stops_hears_that_it_is_written(folder, monkeypatch):
    service = Running(monkeypatch, g1="RUNNING")
    service.do("deployed", "second", {**A, "index": folder})
    written = []
    replica = object.__new__(writers.WriterReplica)
    replica._app, replica._registry = "app", SimpleNamespace(state=SimpleNamespace(remote=service.releases.state))
    replica._writer = SimpleNamespace(put=lambda *given: written.append(given) or {"index_version": "2"})
    monkeypatch.setattr(writers.ray, "get", asyncio.run)
    service.events = [lambda: service.do("stop")]
    for said in ("version 2 was written, and is served from the next start on", "stopping, and nothing was changed"):
        with pytest.raises(RequestError, match=said) as refused:
            replica._change("put", [])
        assert (refused.value.status, refused.value.type) == (503, "stopping")
    assert len(written) == 1
