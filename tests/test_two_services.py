"""Two services on one machine: each is itself alone, whatever happens to the other, and leaves nothing behind."""

from __future__ import annotations

import time

import httpx
import psutil
import pytest
from services import Service, wait_until, write_releases

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """(one, other): they serve indices whose doc_ids begin with "old" and with "new", and start at once."""
    folder = tmp_path_factory.mktemp("two")
    old, new = write_releases(folder)
    both = Service(old, folder / "one"), Service(new, folder / "other")
    try:
        yield both[0].wait(), both[1].wait()
    finally:
        for service in both:
            service.process.kill()


def listened(service: Service) -> set[int]:
    """Ports on which Serve's processes of a service listen. Ray's own are the system's choice."""
    found = set()
    for process in service.below():
        name = " ".join(process.cmdline())
        if "haproxy" in name or "ray::Proxy" in name or "ServeReplica" in name:
            found |= {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return found


def labels(answer: httpx.Response) -> set[str]:
    return {hit["doc_id"].split("/")[0] for hit in answer.json()["results"][0]["hits"]}


def test_a_service_without_its_gateway_does_not_answer_with_the_others_passages(services):
    one, other = services
    assert not listened(one) & listened(other)
    asked = {"query": "river number 7", "k": 3}
    seen: set[str] = set()
    answers = 0
    with httpx.Client(trust_env=False, timeout=10) as http:
        for gateway in other.replicas("hybrid-ir:gateway"):
            gateway.kill()
        deadline = time.monotonic() + 60
        while answers < 20 and time.monotonic() < deadline:
            try:
                answer = http.post(f"{other.url}/search", json=asked)
            except httpx.TransportError:
                continue
            if answer.status_code == 200:
                answers += 1
                seen |= labels(answer)
            time.sleep(0.1)
        assert seen == {"new"}
        assert labels(http.post(f"{one.url}/search", json=asked)) == {"old"}


def test_of_a_service_that_is_killed_nothing_is_left(services):
    one, other = services
    # Two agents of Ray notice only after a minute that it ended. They listen on no port of the service's.
    below = [process for process in other.below() if "Agent" not in process.cmdline()[0]]
    assert any(process.name() == "haproxy" for process in below)
    other.process.kill()
    other.process.wait(timeout=30)
    _, left = psutil.wait_procs(below, timeout=30)
    assert not [process.cmdline() for process in left if process.status() != psutil.STATUS_ZOMBIE]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{other.url}/healthz", trust_env=False)
    assert httpx.get(f"{one.url}/healthz", trust_env=False).status_code == 200


def test_a_service_whose_ray_ends_says_so_and_ends(services):
    one, _ = services
    below = [process for process in one.below() if "Agent" not in process.cmdline()[0]]
    next(process for process in below if process.name() == "raylet").kill()
    assert one.process.wait(timeout=60) == 1
    assert "error: Ray, which the service runs on, has ended" in one.said()
    assert "Traceback" not in one.said()
    wait_until(lambda: not [p for p in below if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 30)
