"""A `hybrid-ir serve` as a user runs it, load on it, and two small releases to serve."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path

import httpx
import psutil
from indices import sample_passages, write_served_index

from hybrid_ir.client import SearchClient

CLI = [sys.executable, "-m", "hybrid_ir.cli"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "HYBRID_IR_"))}
    return {**kept, "HF_HUB_OFFLINE": "1", **more}


class Service:
    """A `hybrid-ir serve` process and what runs below it."""

    def __init__(self, index: Path, log: Path, *settings: str, **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log, self.stopped = log, False
        command = [*CLI, "serve", "--index", str(index), f"serve.port={self.port}", *settings]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment(**variables)
            )
        self.client = SearchClient(self.url)

    def wait(self) -> Service:
        """Until it says that it serves."""
        deadline = time.monotonic() + 300
        while "serving " not in self._log.read_text():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.5)
        return self

    def replicas(self, name: str) -> list[psutil.Process]:
        """Replica processes whose deployment's name begins so."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if f":{name}" in " ".join(process.cmdline()) and "ServeReplica" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def ray_address(self) -> str:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            for word in process.cmdline():
                if word.startswith("--gcs-address="):
                    return word.partition("=")[2]
        raise AssertionError("no raylet below the service")

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLI, *words], capture_output=True, text=True, env=environment(RAY_ADDRESS=self.ray_address()), timeout=240
        )

    def metrics(self) -> Callable[[], str]:
        """What reads the metrics that Ray exports; each call reads them anew."""
        asked = "import ray, sys; ray.init(sys.argv[1], log_to_driver=0); print(ray.nodes()[0]['MetricsExportPort'])"
        variables = environment(RAY_AUTH_MODE="token")
        done = subprocess.run(
            [sys.executable, "-c", asked, self.ray_address()], capture_output=True, text=True, env=variables
        )
        port = done.stdout.split()[-1]
        return lambda: httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text

    def said(self) -> str:
        return self._log.read_text()

    def below(self) -> list[psutil.Process]:
        """Every process that the service started and that runs."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Ctrl-C, or another signal, unless it was stopped before; nothing that was started may be left."""
        if self.stopped:
            return
        self.stopped = True
        below = self.below()
        self.process.send_signal(number)
        assert self.process.wait(timeout=90) == 0, self._log.read_text()
        _, alive = psutil.wait_procs(below, timeout=20)
        assert not [p.name() for p in alive]
        assert "Traceback" not in self._log.read_text()


class Load:
    """Threads that search without a pause; the status of every answer, and what each said of its release.

    Every query is a new one, so that each is encoded.
    """

    def __init__(self, url: str, threads: int = 4, *, key: str = "", **body: object) -> None:
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.statuses: Counter[object] = Counter()
        self.releases: set[tuple[str, frozenset[str]]] = set()
        self._stopped = threading.Event()
        self._numbers = count(7)
        self._threads = [threading.Thread(target=self._run, args=(url, {"k": 3, **body})) for _ in range(threads)]

    def _run(self, url: str, body: dict[str, object]) -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False, headers=self._headers) as http:
            while not self._stopped.is_set():
                try:
                    answer = http.post("/search", json={"query": f"river number {next(self._numbers)}", **body})
                except httpx.TransportError as error:
                    self.statuses[type(error).__name__] += 1
                    continue
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    content = answer.json()
                    hits = frozenset(hit["doc_id"].split("/")[0] for hit in content["results"][0]["hits"])
                    self.releases.add((content["space_id"], hits))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


class Asking:
    """Threads that ask one thing again and again; of each request when it was sent, when it was answered, and how."""

    def __init__(self, url: str, path: str, body: dict | None = None, threads: int = 1) -> None:
        self.answers: list[tuple[float, float, int, httpx.Response | None]] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url, path, body)) for _ in range(threads)]

    def _run(self, url, path, body):
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            while not self._ended.is_set():
                sent = time.monotonic()
                try:
                    answer = http.request("GET" if body is None else "POST", path, json=body)
                    status = answer.status_code
                except httpx.TransportError:
                    status, answer = 0, None
                self.answers.append((sent, time.monotonic(), status, answer))
                time.sleep(0.01)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()


def wait_until(condition, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def labelled(label: str):
    return [p._replace(doc_id=f"{label}/{p.doc_id}") for p in sample_passages()]


def write_releases(folder: Path) -> tuple[Path, Path]:
    """(old, new): two releases with words; their encoders differ, and every doc_id begins with the release's name."""
    for seed, label in enumerate(("old", "new")):
        write_served_index(folder / label, labelled(label), seed=seed, lexical=True)
    return folder / "old", folder / "new"
