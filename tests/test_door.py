"""The door of a gateway: whoever is in is answered, whoever comes once the service stops is not let in."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import httpx
import pytest
from indices import sample_passages, write_served_index
from starlette.responses import PlainTextResponse

from hybrid_ir.config import Serve
from hybrid_ir.serving.layers import door as doors
from hybrid_ir.serving.layers.door import Door
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.ray_serve import swapping
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


def test_whoever_stops_a_service_waits_for_every_gateway_and_for_no_other(monkeypatch):
    releases, asked = Releases({}), []
    asyncio.run(releases.deployed("app", "first", {"index": "/a", "version": "1", "checkpoint": None, "app": None}))

    def ask(self, method, *arguments):
        asked.append(method)
        if asked.count("reports") == 2:  # the second gateway has answered what it was asked
            releases._gateways["app"]["g2"] = {"number": 2, "loaded": {}, "serves": ""}
        return asyncio.run(getattr(releases, method)(*arguments))

    releases._gateways["app"] = {
        "g1": {"number": 2, "loaded": {}, "serves": ""},
        "g2": {"number": 1, "loaded": {}, "serves": ""},
        "dead": {"number": 1, "loaded": {}, "serves": ""},
    }
    monkeypatch.setattr(swapping._Service, "_ask", ask)
    monkeypatch.setattr(swapping._Service, "_gateways", lambda self: ["g1", "g2"])
    swapping.let_finish("app", None, 60)
    assert asked == ["stop", "reports", "reports"]
    swapping.let_finish("another", None, 60)  # one that never served
    assert asked[3:] == ["stop"]
