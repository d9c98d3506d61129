"""How a gateway follows the registry when what it is to load cannot be loaded: what serves goes on serving."""

from __future__ import annotations

import asyncio
import errno
import os
from types import SimpleNamespace

from hybrid_ir.config import Serve
from hybrid_ir.serving.ray_serve.gateway import Gateway
from hybrid_ir.serving.search_service import SearchService


def spec(name: str):
    return {"index": f"/{name}", "version": "1", "checkpoint": None, "app": None}


def release(name: str):
    manifest = SimpleNamespace(index_version="1", codec="Flat", shards=())
    return SimpleNamespace(index=f"/{name}", key=f"/{name}@1", manifest=manifest, close=lambda: None)


def state(number: int, active: str, previous: str | None = None, candidate: str | None = None):
    return {
        "number": number, "active": spec(active), "previous": previous and spec(previous),
        "candidate": candidate and spec(candidate), "loading": candidate is not None,
    }  # fmt: skip


def gateway_of(serves: str, faults: dict[str, Exception]) -> tuple[Gateway, list[str]]:
    """A gateway that serves a release, and what it tries to open; `faults` say what fails, by folder."""
    gateway = object.__new__(Gateway)
    opened: list[str] = []

    async def open_release(wanted):
        opened.append(wanted["index"])
        if wanted["index"] in faults:
            raise faults[wanted["index"]]
        return release(wanted["index"].strip("/"))

    gateway._open = open_release  # type: ignore[method-assign]
    gateway._service = SearchService(release(serves), Serve())  # type: ignore[arg-type]
    gateway._loaded = {f"/{serves}@1": None}
    gateway._number = -1
    return gateway, opened


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/vectors.faiss")


def test_a_candidate_that_finds_the_disk_full_changes_nothing_and_the_same_swap_goes_on():
    async def steps():
        faults: dict[str, Exception] = {"/b": FULL}
        gateway, opened = gateway_of("a", faults)
        await gateway._follow(state(2, "a", candidate="b"))
        assert "No space left on device" in (gateway._loaded["/b@1"] or "")
        assert gateway._service.release.key == "/a@1"
        # It is asked about again, and tries no more: whoever proposed it has been told.
        await gateway._follow(state(2, "a", candidate="b"))
        assert opened == ["/b"]
        # The operator frees some space and gives the command again, so quickly that the gateway sees no withdrawal.
        faults.clear()
        await gateway._follow(state(4, "a", candidate="b"))
        assert opened == ["/b", "/b"]
        assert gateway._loaded["/b@1"] is None
        await gateway._follow(state(5, "b", previous="a"))
        assert gateway._service.release.key == "/b@1"
        assert gateway._service.previous == "/a"

    asyncio.run(steps())


def test_a_gateway_that_cannot_load_what_is_wanted_says_so_and_tries_until_it_can():
    async def steps():
        faults: dict[str, Exception] = {"/b": FileNotFoundError(errno.ENOENT, "No such file or directory", "/b")}
        gateway, opened = gateway_of("a", faults)
        for _ in range(2):
            await gateway._follow(state(3, "b", previous="a"))
        assert opened == ["/b", "/b"]
        assert gateway._service.release.key == "/a@1"
        assert gateway._service.wanted == ("/b", "1")
        faults.clear()
        await gateway._follow(state(3, "b", previous="a"))
        assert gateway._service.release.key == "/b@1"

    asyncio.run(steps())


def test_another_version_of_the_folder_that_serves_is_another_release():
    async def steps():
        gateway, opened = gateway_of("a", {})
        newer = spec("a") | {"version": "2"}
        await gateway._follow(state(2, "a") | {"candidate": newer, "loading": True})
        assert opened == ["/a"]

    asyncio.run(steps())
