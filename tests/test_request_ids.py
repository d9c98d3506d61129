"""Which request ids of clients are taken, and that every answer has one: our callback around what Ray Serve runs."""

from __future__ import annotations

import asyncio

import pytest
from ray.serve._private.http_util import _apply_middlewares

from hybrid_ir.serving.ray_serve.request_ids import HEADER, middlewares


def ids_of(*given: bytes) -> tuple[list[bytes], list[bytes]]:
    """(in the request that the service sees, in the answer) of a request with these ids, as Serve's server calls it."""
    seen: list[bytes] = []
    answered: list[bytes] = []

    async def service(scope, receive, send):
        seen.extend(value for name, value in scope["headers"] if name == HEADER)
        await send({"type": "http.response.start", "status": 404, "headers": []})

    async def send(message):
        answered.extend(value for name, value in message["headers"] if name == HEADER)

    scope = {"type": "http", "headers": [(b"host", b"localhost"), *((HEADER, value) for value in given)]}
    asyncio.run(_apply_middlewares(service, middlewares())(scope, None, send))  # type: ignore[arg-type]
    return seen, answered


@pytest.mark.parametrize("good", [b"a", b"01890a5d-ac96-774b-bcce-b302099a8057", b"x" * 128, b"!#/=~{}"])
def test_a_fit_id_of_the_client_is_that_of_the_request_and_its_answer(good):
    assert ids_of(good) == ([good], [good])


@pytest.mark.parametrize(
    "bad", [(b"x" * 129,), (b"",), (b"a b",), (b"a\tb",), (b"\x1b[2J",), (b"\xff\xfe",), ("ä".encode(),), (b"a", b"b")]
)
def test_another_is_replaced(bad):
    (seen,), (answered,) = ids_of(*bad)
    assert seen == answered
    assert len(seen) == 36
    assert seen not in bad


def test_without_one_each_request_gets_its_own():
    (first,), _ = ids_of()
    (second,), _ = ids_of()
    assert first != second
