"""What metrics are told of requests, of a queue that stands still, and of shards: without Ray."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hybrid_ir.index.query import ShardQuery
from hybrid_ir.serving.batcher import Batcher
from hybrid_ir.serving.layers.measured import measured
from hybrid_ir.serving.query_cache import QueryCache, Text
from hybrid_ir.serving.release import Encoded


async def ask(path: str, answer: Any) -> list[tuple[str, dict[str, str]]]:
    """What is observed of one request to an app whose body is `answer(send)`."""
    seen: list[tuple[str, float, dict[str, str]]] = []

    async def app(scope, receive, send):
        await answer(send)

    async def send(message):
        pass

    try:
        await measured(app, lambda *observed: seen.append(observed))({"type": "http", "path": path}, None, send)  # type: ignore[arg-type]
    except RuntimeError:
        seen.append(("raised", 0, {}))
    assert all(value >= 0 for _, value, _ in seen)
    return [(name, labels) for name, _, labels in seen]


def status(code: int) -> Any:
    async def answer(send):
        await send({"type": "http.response.start", "status": code})
        await send({"type": "http.response.body", "body": b""})

    return answer


@pytest.mark.parametrize("code", [200, 422, 429, 500, 503, 504])
def test_every_answer_is_counted_and_timed_by_its_status(code: int):
    labels = {"route": "search", "code": str(code)}
    assert asyncio.run(ask("/search", status(code))) == [("requests", labels), ("request_duration_seconds", labels)]


def test_both_names_of_search_are_one_label():
    seen = [asyncio.run(ask(path, status(200))) for path in ("/search", "/v1/search")]
    assert seen[0] == seen[1] == [(name, {"route": "search", "code": "200"}) for name, _ in seen[0]]


def test_paths_that_callers_make_up_are_one_label_and_health_checks_are_left_out():
    async def all_of_them():
        return [await ask(path, status(404)) for path in ("/a", "/b?c", "/search/x", "/healthz", "/readyz")]

    made_up = {"route": "other", "code": "404"}
    *others, health, ready = asyncio.run(all_of_them())
    assert others == [[("requests", made_up), ("request_duration_seconds", made_up)]] * 3
    assert health == ready == []


def test_passages_are_one_label_whatever_their_ids():
    labels = {"route": "passages", "code": "404"}
    for path in ("/passages/en/7", "/passages/x", "/passages/"):
        assert asyncio.run(ask(path, status(404)))[0] == ("requests", labels)


def test_a_request_that_is_never_answered_is_counted_too():
    async def leave(send):
        raise RuntimeError("the client left")

    seen = asyncio.run(ask("/v1/embeddings", leave))
    assert seen[0] == ("requests", {"route": "embeddings", "code": "499"})
    assert seen[-1] == ("raised", {})


def test_the_access_log_has_route_and_status_and_nothing_that_the_caller_wrote(caplog):
    async def app(scope, receive, send):
        await status(404)(send)

    async def send(message):
        pass

    async def get(path: str, **options: bool) -> None:
        scope: Any = {"type": "http", "method": "GET", "path": path, "query_string": b"key=s3cret", "headers": []}
        await measured(app, lambda *_: None, **options)(scope, None, send)  # type: ignore[arg-type]

    caplog.set_level(logging.INFO)
    for path in ("/passages/s3cret", "/s3cret", "/healthz"):
        asyncio.run(get(path, access_log=True))
    asyncio.run(get("/stats"))
    said = [(r.method, r.endpoint, r.status) for r in caplog.records if r.name == "ray.serve.access"]  # type: ignore[attr-defined]
    assert said == [("GET", "passages", 404), ("GET", "other", 404)]
    assert caplog.messages[0].startswith("GET passages 404 ")
    assert caplog.messages[0].endswith(" ms")
    assert "s3cret" not in caplog.text


def test_what_a_batch_logs_has_the_id_of_none_of_its_requests():
    request_id = contextvars.ContextVar("request_id", default="none")
    seen = []

    async def run():
        release: Any = HangingRelease()

        async def encode(texts):
            seen.append(request_id.get())
            raise RuntimeError("a defect")

        batcher = Batcher(release, encode, 4, lambda *_: None)
        request_id.set("of the first request")
        await asyncio.gather(batcher.submit("query", [ShardQuery(3)]), return_exceptions=True)

    asyncio.run(run())
    assert seen == ["none"]


class HangingRelease:
    """An encoder that answers when it is let go; a shard that fails."""

    manifest = SimpleNamespace(space={"id": "space"}, shards=[SimpleNamespace(name="000", languages={"en": (0, 1)})])

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def encode(self, texts, role):
        await self.go.wait()
        return Encoded(np.zeros((len(texts), 2), np.float32), np.zeros(len(texts), int), np.zeros(len(texts), bool))

    async def search(self, shard, vectors, queries):
        raise RuntimeError("down")


def test_a_queue_behind_an_encoder_that_hangs_grows_older_and_a_failing_shard_is_timed():
    async def run():
        seen: Counter[str] = Counter()
        release = HangingRelease()
        observe: Any = lambda name, value, labels: seen.update([name])  # noqa: E731
        encode = partial(QueryCache(0, observe).encode, release)  # type: ignore[arg-type]
        batcher = Batcher(release, encode, 4, observe)  # type: ignore[arg-type]
        assert batcher.waited_s() == 0
        futures = [batcher.submit(Text(f"query {i}"), [ShardQuery(3)]) for i in range(6)]
        await asyncio.sleep(0.05)
        first = batcher.waited_s()
        await asyncio.sleep(0.05)
        assert batcher.waited_s() > first >= 0.04
        assert len(batcher) == 2
        release.go.set()
        started = await asyncio.gather(*futures)
        searches = {task for one in started for task, _ in one.searches[0].values()}
        await asyncio.gather(*searches, return_exceptions=True)
        assert batcher.waited_s() == 0
        return seen

    seen = asyncio.run(run())
    assert seen["batch_size"] == seen["encode_duration_seconds"] == seen["shard_duration_seconds"] == 2
