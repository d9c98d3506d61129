"""A thread that computes for nobody is seen: by pings, by /readyz, and by Serve, which replaces its process."""

from __future__ import annotations

import asyncio
import threading

import pytest
from indices import sample_passages, write_served_index

from hybrid_ir.config import Serve
from hybrid_ir.serving import one_thread
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.one_thread import OneThread
from hybrid_ir.serving.ray_serve.replicas import EncoderReplica, ShardReplica
from hybrid_ir.serving.release import Stuck
from hybrid_ir.serving.search_service import SearchService


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stuck") / "index"
    write_served_index(folder, sample_passages(), shards=2)
    return str(folder)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(one_thread, "STUCK_S", 0)


async def held(thread: OneThread, then):
    """What `then` gives while the thread is in a call that does not come back."""
    freed, began = threading.Event(), threading.Event()
    call = asyncio.ensure_future(thread.run(lambda: (began.set(), freed.wait(60))))
    while not began.is_set():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    try:
        return await then()
    finally:
        freed.set()
        await call


def test_many_short_calls_are_not_one_that_is_stuck(impatient):
    async def steps():
        thread = OneThread()
        await asyncio.gather(*(thread.run(int) for _ in range(100)))
        assert not thread.stuck
        thread.check()

    asyncio.run(steps())


@pytest.mark.parametrize("kind", [ShardReplica, EncoderReplica])
def test_a_stuck_replica_answers_no_ping_and_no_health_check(index, impatient, kind):
    replica = kind(index, None, 0, 1) if kind is ShardReplica else kind(index, None, None, 1, "fp32")

    async def asked():
        for ask in (replica.ping, replica.check_health):
            with pytest.raises(Stuck, match="one call has been running"):
                await ask()

    async def steps():
        await held(replica._thread, asked)
        await replica.ping()  # it has come back
        await replica.check_health()

    asyncio.run(steps())


@pytest.mark.parametrize("part", ["encoder", "shards"])
def test_a_gateway_that_is_stuck_is_not_ready_and_says_of_what(index, impatient, part):
    release = LocalRelease(index)
    service = SearchService(release, Serve())

    async def asked():
        with pytest.raises(Stuck):
            release.check()
        return service.ready()

    ready = asyncio.run(held(release._encoding[0] if part == "encoder" else release._searching, asked))
    assert not ready["ready"]
    assert ready["encoder"] == (part != "encoder")
    assert ready["shards_missing"] == ([] if part == "encoder" else ["000", "001"])
    assert service.ready()["ready"]
