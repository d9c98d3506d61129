"""The door of a gateway: whoever is in is answered, whoever comes once the service stops is not let in."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse

from hybrid_ir.serving.layers import door as doors
from hybrid_ir.serving.layers.door import Door


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
