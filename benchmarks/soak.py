"""A service under steady load with bursts, while replicas die, releases change and hostile requests come.

    python benchmarks/soak.py --index runs/quickstart/index --seconds 900

Every answer is compared with exact search by this process, with the index's own encoder. The load is open: requests
come at their times, however slow the answers are. Bursts bring five times as many. Shard and encoder replicas are
killed, the service is swapped to a copy of the index (or to --other) and back, and what no client should send is sent
all the while. At the end more comes than can be answered. What was not as it should be is listed, and the exit code
is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from hybrid_ir.encoders import encode, load_encoder
from hybrid_ir.index import open_shard, read_manifest

CLI = [sys.executable, "-m", "hybrid_ir.cli"]
K = 10
TOLERANCE = 1e-4
"""Of a score: the service may encode a text in another batch."""
ALLOWED = {"shards_missing", "encoder_missing", "deadline_exceeded", "busy"}
"""The types of error that a busy or half dead service may answer with."""
HOSTILE: list[tuple[str, str, bytes]] = [
    ("POST", "/search", b"{"),
    ("POST", "/search", b'{"query": "\xff"}'),
    ("POST", "/search", b"[" * 50_000),
    ("POST", "/search", b'{"query": "a", "k": 1000000000}'),
    ("POST", "/search", b'{"query": ' + json.dumps(["a"] * 10_000).encode() + b"}"),
    ("POST", "/search", b'{"query": ' + json.dumps([1] * 100_000).encode() + b"}"),
    ("POST", "/search", b'{"query": "' + b"a" * 3_000_000 + b'"}'),
    ("POST", "/search", b'{"query": "a", "metadata": {"year": {"$gt": 1}}}'),
    ("POST", "/v1/embeddings", b'{"input": null}'),
    ("GET", "/../../etc/passwd", b""),
    ("DELETE", "/search", b""),
]


@dataclass
class Seen:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """What was not as it should be, and how often."""
    steady_ms: list[float] = field(default_factory=list)
    burst_ms: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the start, MB of all processes of the service)."""
    checked: int = 0


class Exact:
    """Exact search of an index: every query of the run against every passage, in this process."""

    def __init__(self, index: Path, queries: list[str]) -> None:
        manifest = read_manifest(str(index))
        shards = [open_shard(str(index), manifest, n) for n in range(len(manifest.shards))]
        passages = [p for s, entry in zip(shards, manifest.shards, strict=True) for p in s.read(range(entry.rows))]
        model = load_encoder(str(index / "encoder"))
        # The index's own vectors, and queries as a service encodes them. In bf16 those of a 12-layer encoder are off by
        # more than some passages are apart.
        vectors = np.concatenate([np.asarray(shard.vectors, np.float32) for shard in shards])
        scores = encode(model, queries, role="query", precision="fp32") @ vectors.T
        self._best = dict(zip(queries, -np.sort(-scores, axis=1)[:, :K], strict=True))
        self._scores = dict(zip(queries, scores, strict=True))
        self._place = {(p.doc_id, p.text): n for n, p in enumerate(passages)}

    def fault(self, query: str, hits: list[dict[str, Any]]) -> str | None:
        """What is wrong with an answer that is complete, or None."""
        if any((hit["doc_id"], hit["text"]) not in self._place for hit in hits):
            return "a passage that the release does not have"
        own = np.asarray([self._scores[query][self._place[hit["doc_id"], hit["text"]]] for hit in hits])
        said = np.asarray([hit["score"] for hit in hits])
        best = self._best[query]
        if len(hits) != len(best):
            return f"{len(hits)} hits in place of {len(best)}"
        if np.abs(own - said).max() > TOLERANCE:
            return "a score that is not its passage's"
        return "not the best passages" if np.abs(np.sort(own) - np.sort(best)).max() > TOLERANCE else None


def texts_of(index: Path, count: int) -> list[str]:
    """Passages of the index, cut, as queries."""
    manifest, chosen = read_manifest(str(index)), random.Random(0)
    texts: list[str] = []
    for n, entry in enumerate(manifest.shards):
        rows = chosen.sample(range(entry.rows), min(entry.rows, count // len(manifest.shards)))
        texts += [p.text[:60].strip() for p in open_shard(str(index), manifest, n).read(rows)]
    return list(dict.fromkeys(texts))


class Soak:
    def __init__(
        self, url: str, process: subprocess.Popen[bytes], exact: dict[str, Exact], queries: list[str], args: Any
    ) -> None:
        self.url, self.process, self.exact, self.args = url, process, exact, args
        self.seen, self.begun = Seen(), time.monotonic()
        self.queries = queries
        self.ended = asyncio.Event()
        self.changed = 0.0

    async def search(self, http: httpx.AsyncClient, times: list[float], queries: int = 1) -> None:
        asked = random.choices(self.queries, k=queries)
        begun = time.monotonic()
        try:
            answer = await http.post("/search", json={"query": asked, "k": K})
        except httpx.TransportError as error:
            self.seen.statuses[type(error).__name__] += 1
            self.seen.faults[f"no answer: {type(error).__name__}"] += 1
            return
        self.seen.statuses[str(answer.status_code)] += 1
        if answer.status_code == 200:
            times.append(1000 * (time.monotonic() - begun))
            body = answer.json()
            for query, result in zip(asked, body["results"], strict=True):
                fault = self.exact[body["index_version"]].fault(query, result["hits"])
                self.seen.checked += 1
                if fault:
                    self.seen.faults[f"a wrong answer: {fault}"] += 1
        elif kind(answer) not in ALLOWED:
            self.seen.faults[f"{answer.status_code} {kind(answer)}"] += 1

    async def load(self, http: httpx.AsyncClient) -> None:
        """Steady, and every 30 s five times as much for 3 s."""
        tasks: set[asyncio.Task[None]] = set()
        following = time.monotonic()
        while not self.ended.is_set():
            bursting = (time.monotonic() - self.begun) % 30 > 27
            following += 1 / (self.args.rate * (5 if bursting else 1))
            await asyncio.sleep(max(0.0, following - time.monotonic()))
            task = asyncio.create_task(self.search(http, self.seen.burst_ms if bursting else self.seen.steady_ms))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def hostile(self, http: httpx.AsyncClient) -> None:
        number = 0
        while not self.ended.is_set():
            method, path, content = HOSTILE[number % len(HOSTILE)]
            number += 1
            with suppress(httpx.TransportError):  # a body that is refused may be cut off
                answer = await http.request(method, path, content=content)
                if answer.status_code < 400 or answer.status_code >= 500:
                    self.seen.faults[f"{answer.status_code} for {method} {path} {content[:20]!r}"] += 1
            with socket.create_connection(("127.0.0.1", self.args.port), timeout=5) as hung:  # and leaves in the middle
                hung.sendall(b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
            await asyncio.sleep(0.5)

    async def memory(self) -> None:
        while not self.ended.is_set():
            total = 0
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if "ServeReplica" in " ".join(process.cmdline()):
                        total += process.memory_full_info().uss
            self.seen.memory.append((time.monotonic() - self.begun, total / 1e6))
            await asyncio.sleep(2)

    async def faults(self) -> None:
        """Deaths and changes, spread over the first half: in the second the memory must stay as it is."""
        steps = [self.kill("shard"), self.kill("encoder"), self.command("swap", "--index", str(self.args.other)),
                 self.command("rollback"), self.kill("shard")]  # fmt: skip
        for place, step in zip((0.05, 0.12, 0.2, 0.35, 0.45), steps, strict=True):
            await asyncio.sleep(max(0.0, self.begun + place * self.args.seconds - time.monotonic()))
            await step
        self.changed = time.monotonic() - self.begun

    async def kill(self, name: str) -> None:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "ServeReplica" in (said := " ".join(process.cmdline())) and f":{name}-" in said:
                    process.kill()
                    return print(f"{self.age()} killed a replica of {name}", flush=True)
        self.seen.faults[f"no replica of {name} to kill"] += 1

    async def command(self, *words: str) -> None:
        address = next(
            word.partition("=")[2]
            for each in psutil.Process(self.process.pid).children(recursive=True)
            for word in each.cmdline()
            if word.startswith("--gcs-address=")
        )
        settings = ["serve.cpus_per_replica=0.05", "serve.replicas=2", "serve.threads=1"] if words[0] == "swap" else []
        child = await asyncio.create_subprocess_exec(
            *CLI, *words, *settings, env={**os.environ, "RAY_ADDRESS": address},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said = (await child.communicate())[0].decode().strip()
        print(f"{self.age()} {said}", flush=True)
        if child.returncode:
            self.seen.faults[f"{words[0]} failed: {said[-200:]}"] += 1

    async def overload(self, http: httpx.AsyncClient) -> dict[str, float]:
        """More than can wait comes at once, for five seconds: 24 clients that each ask half a queue of queries, and
        again as soon as they are answered. Then how long it takes until a request is quick again."""
        usual = statistics.median(self.seen.steady_ms)
        before, until = self.seen.statuses["429"], time.monotonic() + 5
        late: list[float] = []

        async def press() -> None:
            while time.monotonic() < until:
                await self.search(http, late, queries=self.args.max_queue // 2)

        await asyncio.gather(*(press() for _ in range(24)))
        refused, over = self.seen.statuses["429"] - before, time.monotonic()
        if not refused:
            self.seen.faults["no 429 over capacity"] += 1
        quick: list[float] = []
        while not quick or quick[-1] > max(5 * usual, 200):
            if time.monotonic() - over > 30:
                self.seen.faults["not recovered 30 s after the overload"] += 1
                break
            await self.search(http, quick)
        return {"refused": refused, "recovered_s": round(time.monotonic() - over, 2)}

    async def run(self) -> dict[str, Any]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=60, trust_env=False, limits=limits) as http:
            others = [asyncio.create_task(each) for each in (self.load(http), self.hostile(http), self.memory())]
            await self.faults()
            await asyncio.sleep(max(0.0, self.begun + self.args.seconds - time.monotonic()))
            self.ended.set()
            await asyncio.gather(*others)
            overload = await self.overload(http)
        return self.report() | overload

    def report(self) -> dict[str, Any]:
        seen = self.seen
        # Of two equal parts of the time after the last change, if that is long enough to say anything.
        begin = max(seen.memory[-1][0] / 2, self.changed + 20)
        steady = [mb for at, mb in seen.memory if at > begin]
        parts = [round(statistics.median(p)) for p in (steady[: len(steady) // 2], steady[len(steady) // 2 :]) if p]
        if len(steady) >= 30 and parts[1] > 1.05 * parts[0]:
            seen.faults[f"memory grew from {parts[0]} to {parts[1]} MB in the second half"] += 1
        return {
            "seconds": round(seen.memory[-1][0]),
            "rate": self.args.rate,
            "statuses": dict(seen.statuses),
            "checked": seen.checked,
            "p50_ms": round(float(np.percentile(seen.steady_ms, 50)), 1),
            "p99_ms": round(float(np.percentile(seen.steady_ms, 99)), 1),
            "burst_p99_ms": round(float(np.percentile(seen.burst_ms, 99)), 1) if seen.burst_ms else None,
            "memory_mb": parts,
        }

    def age(self) -> str:
        return f"{time.monotonic() - self.begun:5.0f} s"


def kind(answer: httpx.Response) -> str:
    try:
        return answer.json()["error"]["type"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:60]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True)
    parser.add_argument("--other", help="index to swap to; a copy of the first by default")
    parser.add_argument("--seconds", type=int, default=900)
    parser.add_argument("--rate", type=float, default=10, help="requests a second")
    parser.add_argument("--port", type=int, default=8904)
    parser.add_argument("--max-queue", type=int, default=32)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.other is None:
            args.other = shutil.copytree(args.index, Path(folder) / "copy")
        queries = texts_of(Path(args.index), 200)
        indices = {read_manifest(each).index_version: Path(each) for each in (args.index, str(args.other))}
        exact = {version: Exact(index, queries) for version, index in indices.items()}
        settings = ["serve.placement=distributed", "serve.replicas=2", "serve.cpus_per_replica=0.05", "serve.threads=1"]
        # Fewer than there are queries: some are answered from the cache, and the encoders have work.
        settings += ["serve.query_cache=64"]
        command = [*CLI, "serve", "--index", args.index, f"serve.port={args.port}", *settings]
        process = subprocess.Popen([*command, f"serve.max_queue={args.max_queue}"], stdin=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{args.port}"
            while httpx_status(f"{url}/readyz") != 200:
                if process.poll() is not None:
                    sys.exit(f"the service ended with {process.returncode}")
                time.sleep(0.5)
            soak = Soak(url, process, exact, queries, args)
            report = asyncio.run(soak.run())
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=90)
    print(json.dumps(report | {"faults": dict(soak.seen.faults)}, indent=1))
    sys.exit(1 if soak.seen.faults else 0)


def httpx_status(url: str) -> int | None:
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code
    except httpx.TransportError:
        return None


if __name__ == "__main__":
    main()
