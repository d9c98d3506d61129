"""Requests a second and latency beside a single-process FastAPI server: same encoder, passages and load; servers in
turn.

python benchmarks/serve.py --xquad DIR --rounds 2                     (needs wrk: apt-get install wrk)
python benchmarks/serve.py --xquad DIR --encoder whole --precisions fp32 int8

Of a larger encoder the peer takes minutes to encode its passages at each start: --peer-passages gives it fewer, which
is in its favour.

Each request asks what no request before it asked. With --repeated all ask the same hundred queries over and over, which
is what a cache of queries can do; that is another table, and never mixed with the first.

With --parts a second table says where a request's time goes, from socket to socket, as means at 32 connections and at
one: what the answers' `timings_ms` say, and the rest, which is HTTP, Serve and the loop of events. wrk reads every
answer for it, in a load of its own. With --json the last line has the medians of each server.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pairs import make_inputs

from hybrid_ir.data.sources.lareqa import lareqa_collection

PEERS = Path(__file__).parent / "peers.py"
CLI = [sys.executable, "-m", "hybrid_ir.cli"]
# Bodies in their order, beginning with the one whose number is given. A body lacks its end, `"}`: when all have been
# sent, they are sent again with a number behind the query, which makes each a query that nobody has asked.
LUA = """
local lines = {}
for line in io.lines("%s") do lines[#lines + 1] = line end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local number = 0
init = function(args) number = tonumber(args[1]) end
request = function()
  local pass = math.floor(number / #lines)
  local body = lines[number %% #lines + 1]
  number = number + 1
  if pass > 0 and not %s then body = body .. " " .. pass end
  return wrk.format(nil, "/search", nil, body .. '"}')
end
"""
READ_PARTS = """
local threads = {}
function setup(thread) threads[#threads + 1] = thread end
answered, queue, encode, search, total = 0, 0, 0, 0, 0
function response(status, headers, body)
  local begin = body:find('"timings_ms"', 1, true)
  local function part(name) return tonumber(body:match('"' .. name .. '":([%d.e-]+)', begin)) end
  answered, queue, encode = answered + 1, queue + part("queue"), encode + part("encode")
  search, total = search + part("search"), total + part("total")
end
function done(summary, latency, requests)
  local n = threads[1]:get("answered")
  for _, name in ipairs({"queue", "encode", "search", "total"}) do print(name .. "=" .. threads[1]:get(name) / n) end
  print("request=" .. latency.mean / 1000)
end
"""
PARTS = ("request", "queue", "encode", "search", "total")
REPEATED = 100


def wait_for_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    body = json.dumps({"query": "?", "k": 1}).encode()
    for _ in range(600):
        if process.poll() is not None:
            sys.exit(f"the server at {url} ended with {process.returncode}")
        try:
            request = urllib.request.Request(f"{url}/search", body, {"Content-Type": "application/json"})
            return urllib.request.urlopen(request, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    sys.exit(f"no answer from {url}")


def load(url: str, script: Path, first: int, connections: int, seconds: int) -> dict[str, float]:
    """Requests/s, p50 and p99 in ms, and the number of the first body that was not sent. It begins with number `first`.

    Any answer that is not 200 ends the benchmark.
    """
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "10s",
        "--latency",
        "-s",
        str(script),
        url,
        "--",
        str(first),
    ]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(said)
    parts = {name: float(value) for name, value in re.findall(r"^(\w+)=([\d.e+-]+)$", said, re.MULTILINE)}
    latency = {
        p: float(v) * {"us": 0.001, "ms": 1, "s": 1000}[u]
        for p, v, u in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", said)
    }
    (rate,) = re.findall(r"Requests/sec:\s+([\d.]+)", said)
    (answered,) = re.findall(r"(\d+) requests in", said)
    # Each connection had one more under way.
    following = first + int(answered) + connections
    return {"rps": float(rate), "p50": latency["50"], "p99": latency["99"], "following": following, **parts}


def measure(command: list[str], url: str, script: Path, seconds: int, reading: Path | None) -> dict[str, float]:
    """`reading` is the script that also reads the parts of a request's time."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_answer(url, process)
        warm = load(url, script, 0, 32, 3)
        many = load(url, script, int(warm["following"]), 32, seconds)
        one = load(url, script, int(many["following"]), 1, seconds)
        figures = {"rps32": many["rps"], "p50_32": many["p50"], "p99_32": many["p99"], "p50_1": one["p50"]}
        first = int(one["following"])
        for connections in (32, 1) if reading else ():
            read = load(url, reading, first, connections, seconds)
            first = int(read["following"])
            figures |= {f"{name}_{connections}": read[name] for name in PARTS}
        return figures
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--xquad", type=Path, required=True, help="folder of XQuAD-R")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--repeated", action="store_true", help=f"all requests ask the same {REPEATED} queries")
    parser.add_argument(
        "--encoder", choices=["mini", "cut", "whole"], default="mini", help="as benchmarks/pairs.py says"
    )
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "int8"], default=["fp32"], help="serve.precision")
    parser.add_argument("--peer-passages", type=int, help="how many of the passages the peer has; all by default")
    parser.add_argument("--parts", action="store_true", help="a second table: where a request's time goes")
    parser.add_argument("--json", action="store_true", help="the figures in a last line")
    parser.add_argument("--keep", type=Path, help="folder to keep the index in, and to find it in")
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        root = args.keep or Path(folder)
        root.mkdir(exist_ok=True)
        collection = lareqa_collection(args.xquad, "xquad-r")
        rows = {"doc_id": [c.doc_id for c in collection.candidates], "text": [c.text for c in collection.candidates]}
        pq.write_table(pa.table(rows).slice(0, args.peer_passages), root / "passages.parquet")
        texts = list(dict.fromkeys(q.text for q in collection.queries))
        random.Random(0).shuffle(texts)  # languages mixed
        if args.repeated:
            texts = texts[:REPEATED]
        bodies = [json.dumps({"k": 10, "query": text}).removesuffix('"}') for text in texts]
        (root / "queries.txt").write_text("\n".join(bodies), encoding="utf-8")
        script = root / "post.lua"
        script.write_text(LUA % (root / "queries.txt", str(args.repeated).lower()), encoding="utf-8")
        reading = root / "parts.lua"
        reading.write_text(script.read_text(encoding="utf-8") + READ_PARTS, encoding="utf-8")
        if not (root / "index").exists():
            model, _, _ = make_inputs(args.xquad, root, encoder=args.encoder)
            build = ["index", "--checkpoint", str(model), "--passages", str(args.xquad), "--out", str(root / "index")]
            subprocess.run([*CLI, *build, f"index.shards={args.shards}"], check=True)
        serve = [*CLI, "serve", "--index", str(root / "index"), "serve.port=8901"]
        encoder = str(root / "index" / "encoder")
        servers = {
            "peer": [sys.executable, str(PEERS), "serve", encoder, str(root / "passages.parquet"), "--port", "8900"],
        }
        for precision in args.precisions:
            for placement in ("local", "distributed"):
                settings = [f"serve.placement={placement}", f"serve.precision={precision}"]
                servers[f"{placement} {precision}"] = [*serve, *settings]
        results: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for number in range(args.rounds):
            for name, command in servers.items():
                url = f"http://127.0.0.1:{8900 if name == 'peer' else 8901}"
                results[name].append(
                    measure(command, url, script, args.seconds, reading if args.parts and name != "peer" else None)
                )
                print(f"round {number + 1} {name}: {results[name][-1]}", file=sys.stderr, flush=True)
    keys = ("rps32", "p50_32", "p99_32", "p50_1")
    middle = {name: {key: statistics.median(r[key] for r in runs) for key in keys} for name, runs in results.items()}
    print("| server | requests/s at 32 | over peer | p50 at 32, ms | p99 at 32, ms | p50 at 1, ms | over peer |")
    print("|---|---|---|---|---|---|---|")
    for name, m in middle.items():
        more, slower = m["rps32"] / middle["peer"]["rps32"], m["p50_1"] / middle["peer"]["p50_1"]
        print(
            f"| {name} | {m['rps32']:.0f} | {more:.2f}x | {m['p50_32']:.1f} | {m['p99_32']:.1f} | {m['p50_1']:.2f} | {slower:.2f}x |"  # noqa: E501
        )
    if args.parts:
        print_parts(results)
    if args.json:
        print(json.dumps(middle))


def print_parts(results: dict[str, list[dict[str, float]]]) -> None:
    """Means in ms. `search` has the passages and the making of the answer in it."""
    print("\n| server | connections | a request | in the queue | encode | search and answer | HTTP and Serve |")
    print("|---|---|---|---|---|---|---|")
    for name, runs in results.items():
        for connections in (32, 1) if name != "peer" else ():
            mean = {part: statistics.median(run[f"{part}_{connections}"] for run in runs) for part in PARTS}
            cells = (mean["request"], mean["queue"], mean["encode"], mean["search"], mean["request"] - mean["total"])
            print(f"| {name} | {connections} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
