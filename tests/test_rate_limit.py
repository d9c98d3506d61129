"""Limits a key: what is let through, what is refused and until when. Time is a number that the tests move."""

from __future__ import annotations

import pytest
from starlette.responses import Response
from starlette.testclient import TestClient

from hybrid_ir.config import Serve
from hybrid_ir.serving.api import ErrorResponse
from hybrid_ir.serving.layers.rate_limit import Buckets, limited
from hybrid_ir.serving.ray_serve.gateway import check_rate_limit
from hybrid_ir.types import InputError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def asked(buckets: Buckets, key: str, times: int) -> list[bool]:
    return [buckets.wait_s(f"Bearer {key}") == 0 for _ in range(times)]


def test_a_key_may_ask_so_often_at_once_and_once_more_for_each_part_of_the_minute(clock):
    buckets = Buckets(("a", "b"), 6, clock)
    assert asked(buckets, "a", 8) == [True] * 6 + [False] * 2
    assert buckets.wait_s("Bearer a") == pytest.approx(10)
    clock.now += 9.5
    assert buckets.wait_s("Bearer a") == pytest.approx(0.5)
    clock.now += 0.5
    assert asked(buckets, "a", 2) == [True, False]
    clock.now += 25  # two requests and a half
    assert asked(buckets, "a", 3) == [True, True, False]
    assert buckets.wait_s("Bearer a") == pytest.approx(5)
    clock.now += 3600
    assert asked(buckets, "a", 7) == [True] * 6 + [False]


def test_each_key_has_its_own_and_strangers_take_no_memory(clock):
    buckets = Buckets(("a", "b"), 1, clock)
    assert asked(buckets, "a", 2) == [True, False]
    assert asked(buckets, "b", 2) == [True, False]
    assert all(asked(buckets, f"stranger-{n}", 2) == [True, True] for n in range(100))
    assert buckets.wait_s("") == 0
    assert len(buckets._left) == 2


def test_what_is_over_is_429_with_the_time_to_wait_and_reaches_no_service(clock):
    reached = []

    async def service(scope, receive, send):
        reached.append(scope["path"])
        await Response("ok")(scope, receive, send)

    http = TestClient(limited(service, Buckets(("s3cret",), 2, clock)), headers={"Authorization": "Bearer s3cret"})
    assert [http.post("/v1/search").status_code for _ in range(3)] == [200, 200, 429]
    refused = http.get("/stats")
    assert refused.headers["Retry-After"] == "30"
    assert refused.headers["content-type"] == "application/problem+json"
    error = ErrorResponse.model_validate_json(refused.content).error
    assert (error.type, error.message) == (
        "rate_limited",
        "this key has no request left; ask again in 30.0 s (serve.requests_per_minute)",
    )
    assert [http.get(path).status_code for path in ("/readyz", "/healthz", "/")] == [200] * 3
    assert (
        http.post("/v1/search", headers={"Authorization": "Bearer other"}).status_code == 200
    )  # a 401, by the service
    assert reached == ["/v1/search"] * 2 + ["/readyz", "/healthz", "/", "/v1/search"]


def test_a_limit_without_keys_is_refused(clock):
    check_rate_limit(Serve(requests_per_minute=5), ("key",))
    check_rate_limit(Serve(), ())
    with pytest.raises(InputError, match="requests_per_minute=5 counts by API key, and there is none: set HYBRID"):
        check_rate_limit(Serve(requests_per_minute=5), ())
