"""A service with keys as a user runs it: no key is in anything that it, HAProxy or Ray writes or says.

The one test is a claim of docs/security.md. The same service shows what its access log says, and which ids it answers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
from indices import sample_passages, write_served_index
from services import Service, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

LOGGED = ("serve.access_log=true", "serve.log_format=json")
RIGHT, WRONG = "s3cret-of-ours", "s3cret-that-is-wrong"


def session_of(service: Service) -> Path:
    """The folder in which the service's Ray has its logs, HAProxy's output, and what it writes of Serve."""
    for process in service.below():
        found = re.search(r"=(/\S*/session_[^/\s]+)", " ".join(process.cmdline()))
        if found and Path(found[1]).is_dir():
            return Path(found[1])
    raise AssertionError("no session folder in the command line of any process")


def holds_a_key(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 10, "these are not Ray's logs"
    return [str(path) for path in files if b"s3cret" in path.read_bytes()]


def lines_of(session: Path) -> list[dict]:
    """What the gateways logged, each line an object."""
    return [json.loads(line) for file in session.rglob("*gateway*.log") for line in file.read_text().splitlines()]


def ids_answered(http: httpx.Client) -> list[str]:
    """The ids of answers to a request with a fit one, to one with none, and to one with one that is not."""
    given = [b"ours-1"], [], [b"\xff\xfe"]
    found = [http.get("/nothing", headers=[(b"X-Request-ID", one) for one in ids]).headers for ids in given]
    return [headers["X-Request-ID"] for headers in found]


def test_no_key_is_in_a_log_a_metric_an_answer_or_a_command_line(tmp_path):
    """Also not after the gateway has died, and with all that Ray Serve logs when it is asked to."""
    write_served_index(tmp_path / "index", sample_passages())
    service = Service(tmp_path / "index", tmp_path / "log", "--verbose", *LOGGED, HYBRID_IR_API_KEYS=f"other,{RIGHT}")
    said = []
    try:
        service.wait()
        session = session_of(service)
        with httpx.Client(base_url=service.url, timeout=30, trust_env=False) as http:

            def ask(key: str) -> int:
                for method, path, body in (
                    ("POST", "/search", {"query": "river"}),
                    ("POST", "/search", {"query": "river", "k": 0}),
                    ("POST", "/v1/embeddings", {"input": ["river"]}),
                    ("GET", "/nothing", None),
                    ("GET", "/stats", None),
                ):
                    try:
                        answer = http.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"})
                    except httpx.TransportError:
                        return 0
                    said.append(answer.text + str(answer.headers))
                return answer.status_code

            assert (ask(RIGHT), ask(WRONG)) == (200, 401)
            ids = ids_answered(http)
            assert ids[0] == "ours-1"
            assert [len(other) for other in ids[1:]] == [36, 36]
            # Each line is there at once: a gateway that is killed takes none along.
            access = [line for line in lines_of(session) if "endpoint" in line]
            assert [line["request_id"] for line in access[-3:]] == ids
            asked = [(line["method"], line["endpoint"], line["status"]) for line in access]
            assert asked[:3] == [("POST", "search", 200), ("POST", "search", 422), ("POST", "embeddings", 200)]
            assert access[0]["levelname"] == "INFO"
            assert access[0]["milliseconds"] > 0
            for gateway in service.replicas("hybrid-ir:gateway"):
                gateway.kill()
            wait_until(lambda: ask(RIGHT) == 200, 180)  # it loads torch, on a busy machine
        metrics = service.metrics()
        wait_until(lambda: "ray_hybrid_ir_requests_total" in metrics(), 60)
        said.append(metrics())
        said += [" ".join(process.cmdline()) for process in service.below()]
        service.process.terminate()
        service.process.wait(timeout=90)
        assert "s3cret" not in service.said() + "".join(said)
        assert holds_a_key(session) == []
        logs = {path.name for path in session.rglob("*.log")}
        assert any("gateway" in name for name in logs), f"the gateway's log is not among {logs}"
    finally:
        service.process.kill()
