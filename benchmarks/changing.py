"""Passages replaced and deleted under load, the writer killed now and then: is every answer that of its version?

    python benchmarks/changing.py --index INDEX --seconds 180

Serves a copy of INDEX with a write key. `--connections` clients search and read passages without a pause; one writes.
Each answer names its `index_version`. Afterwards, what that version must answer is computed in this process from the
version's own files and the query vectors that the service made, and compared: doc_ids in their order (scores closer
than 1e-5 may change places) and scores to 1e-5. Of a Flat index numpy computes it from all vectors. Of another, whose
answers depend on the lists that are visited, its shards are searched here one by one, and numpy scores what they find.
Prints the number of answers that were checked and of those that were wrong, by status and version.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import psutil

from hybrid_ir.index import open_shard, read_manifest
from hybrid_ir.index.query import ShardQuery, is_flat, merge

CLI = [sys.executable, "-m", "hybrid_ir.cli"]
KEY = {"Authorization": "Bearer writer"}
K = 10


class Truth:
    """What one version must answer, from its files: vectors of living rows and their doc_ids."""

    def __init__(self, index: Path, version: str) -> None:
        manifest = read_manifest(index, version)
        vectors, self.doc_ids, self.texts, self.shards = [], [], {}, []
        self.exact, self.candidates = is_flat(manifest.codec), manifest.candidates
        for number in range(len(manifest.shards)):
            shard = open_shard(index, manifest, number, checksums=False)
            rows = np.arange(shard.rows) if shard.living is None else np.flatnonzero(shard.living)
            passages = shard.read(rows.tolist())
            self.doc_ids += [passage.doc_id for passage in passages]
            self.texts.update({passage.doc_id: passage.text for passage in passages})
            vectors.append(np.array(shard.vectors[rows], np.float32))
            self.shards.append(shard)
        self.vectors = np.concatenate(vectors)
        assert len(self.texts) == len(self.doc_ids) == manifest.rows

    def is_right(self, vector: np.ndarray, hits: list[dict[str, Any]]) -> bool:
        scores = self.vectors @ vector
        best = np.sort(scores)[::-1][:K] if self.exact else self.found(vector)
        of = dict(zip(self.doc_ids, scores.tolist(), strict=True))
        said = [hit["score"] for hit in hits]
        return (
            len({hit["doc_id"] for hit in hits}) == len(hits) == len(best)
            and all(hit["doc_id"] in of and abs(of[hit["doc_id"]] - hit["score"]) < 1e-5 for hit in hits)
            and all(hit["text"] == self.texts[hit["doc_id"]] for hit in hits)
            and np.allclose(said, best, rtol=0, atol=1e-5)
        )

    def found(self, vector: np.ndarray) -> np.ndarray:
        """(K,) float32 scores of what the lists lead to."""
        parts = [shard.search(vector[None], [ShardQuery(K)])[0] for shard in self.shards]
        return np.array([hit.score for hit in merge(parts, K, True, candidates=self.candidates)], np.float32)


async def searching(http: httpx.AsyncClient, queries: list[str], doc_ids: list[str], until: float, seen: list) -> None:
    lots = random.Random(len(seen))
    while time.monotonic() < until:
        number = lots.randrange(len(queries))
        try:
            if lots.random() < 0.1:
                doc_id = lots.choice(doc_ids)
                answer = await http.get(f"/passages/{quote(doc_id, safe='')}")
                seen.append((answer.status_code, None, doc_id, answer.json()))
            else:
                answer = await http.post("/search", json={"query": queries[number], "k": K})
                seen.append((answer.status_code, number, None, answer.json()))
        except httpx.TransportError as error:
            seen.append((type(error).__name__, number, None, {}))


async def writing(http: httpx.AsyncClient, passages: list[dict], until: float, pid: int, every: int) -> Counter:
    """Puts, deletes, and puts back; every so many changes the writer is killed in the middle of one."""
    done: Counter = Counter()
    lots = random.Random(0)
    while time.monotonic() < until:
        some = lots.sample(passages, 8)
        if lots.random() < 0.5:
            body = [{**p, "text": f"{p['text']} ({sum(done.values())})"} for p in some]
            asked = http.put("/passages", json={"passages": body}, headers=KEY, timeout=120)
        else:
            asked = http.delete(f"/passages/{quote(some[0]['doc_id'], safe='')}", headers=KEY, timeout=120)
        change = asyncio.create_task(asked)
        if every and sum(done.values()) % every == every - 1:
            await asyncio.sleep(lots.random())
            for process in psutil.Process(pid).children(recursive=True):
                if ":writer" in (said := " ".join(process.cmdline())) and "ServeReplica" in said:
                    process.kill()
                    done["kills"] += 1
        try:
            answer = await change
            done[f"{answer.request.method} {answer.status_code}"] += 1
        except httpx.TransportError as error:
            done[type(error).__name__] += 1
        if done["kills"]:
            await asyncio.sleep(0.2)
    return done


async def load(url: str, pid: int, passages: list[dict], queries: list[str], args: Any) -> tuple[list, Counter, Any]:
    seen: list = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as http:
        answer = await http.post("/v1/embeddings", json={"input": queries, "input_type": "query"})
        vectors = np.array([row["embedding"] for row in answer.json()["data"]], np.float32)
        until, doc_ids = time.monotonic() + args.seconds, [p["doc_id"] for p in passages]
        readers = [searching(http, queries, doc_ids, until, seen) for _ in range(args.connections)]
        done, *_ = await asyncio.gather(writing(http, passages, until, pid, args.kill_every), *readers)
    return seen, done, vectors


def check(index: Path, seen: list, vectors: np.ndarray) -> dict[str, Any]:
    statuses, wrong, truths = Counter(str(s) for s, *_ in seen), Counter(), {}
    checked = 0
    absent = {version.stem: None for version in (index / "versions").glob("*.json")}
    for status, number, doc_id, body in seen:
        if status not in (200, 404) or (status == 404 and doc_id is None):
            wrong[f"status {status}"] += 1
            continue
        if status == 404:  # it does not say its version: in some version it must be gone
            checked += 1
            continue
        version = body["index_version"]
        if version not in absent:
            wrong["a version that is not there"] += 1
            continue
        truth = truths.get(version) or truths.setdefault(version, Truth(index, version))
        checked += 1
        if doc_id is not None:
            wrong["passage"] += truth.texts.get(doc_id) != body["text"]
        else:
            wrong["search"] += not truth.is_right(vectors[number], body["results"][0]["hits"])
    return {"answers": len(seen), "checked": checked, "wrong": sum(wrong.values()), "of which": +wrong,
            "statuses": statuses, "versions served": len(truths)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True)
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--kill-every", type=int, default=5, help="changes; 0 = the writer is never killed")
    parser.add_argument("--port", type=int, default=8905)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = Path(shutil.copytree(args.index, Path(folder) / "index"))
        manifest = read_manifest(index)
        shard = open_shard(index, manifest, 0)
        passages = [{"doc_id": p.doc_id, "text": p.text, "language": p.language}
                    for p in shard.read(range(min(400, shard.rows)))]  # fmt: skip
        queries = [" ".join(p["text"].split()[:8]) for p in passages[:200]]
        command = [*CLI, "serve", "--index", str(index), f"serve.port={args.port}", "serve.placement=local"]
        variables = {**os.environ, "HYBRID_IR_WRITE_KEYS": "writer"}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=variables)
        try:
            url = f"http://127.0.0.1:{args.port}"
            while not ready(url):
                if process.poll() is not None:
                    sys.exit(f"the service ended with {process.returncode}")
                time.sleep(0.5)
            seen, done, vectors = asyncio.run(load(url, process.pid, passages, queries, args))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=90)
        report = check(index, seen, vectors) | {"changes": done}
    print(json.dumps(report, indent=1))
    sys.exit(1 if report["wrong"] else 0)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
