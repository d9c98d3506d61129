"""What our layers cost: a training step beside plain torch DDP, a request beside plain FAISS, at 1, 2 and 4 workers or shards.

    python benchmarks/overhead.py training --xquad DIR
    python benchmarks/overhead.py serving --xquad DIR

Both sides of `training` run the same step on the same batches (`backward` and `update`); plain DDP has them built before it starts, and
neither validates, saves nor logs; ours is `hybrid-ir train`. Both sides of `serving` encode with the same encoder; plain FAISS is one
flat index in the process that asks, ours is `hybrid-ir serve`, one request at a time. Alternating runs, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from pairs import make_inputs, run_json

COUNTS = (1, 2, 4)
CLI = [sys.executable, "-m", "hybrid_ir.cli"]
PORT = 8903
NOTHING_HELD_OUT = ("prepare.validation_fraction=0", "prepare.test_fraction=0")


def settings_of(folder: Path, steps: int, batch: int, workers: int) -> list[str]:
    return [
        f"store={folder / 'store'}", f"encoder.name={folder / 'model'}", "encoder.max_tokens=128", f"batch.size={batch}",
        f"train.steps={steps}", f"train.workers={workers}", "train.evaluate_every=null", "train.checkpoint_every=null",
        "train.cpus_per_worker=0.4", "train.cpus_per_data_actor=0.2", "train.trackers=[]", "train.precision=fp32",
        f"train.threads_per_worker={max(1, (os.cpu_count() or 1) // workers)}",
    ]  # fmt: skip


def plain(folder: str, steps: int, batch: int, workers: int) -> None:
    """Seconds a step of plain DDP, as one JSON line."""
    import torch.multiprocessing as mp

    mp.spawn(plain_rank, args=(folder, steps, batch, workers), nprocs=workers)
    print(json.dumps({"s_per_step": float(Path(folder, "plain.txt").read_text())}))


def plain_rank(rank: int, folder: str, steps: int, batch: int, workers: int) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from hybrid_ir.batches import builder_for, plan_for
    from hybrid_ir.config import load_experiment
    from hybrid_ir.encoder import Embedder, freeze_unused, load_encoder
    from hybrid_ir.step import LossSettings, backward, make_optimizer, update
    from hybrid_ir.store import open_store
    from hybrid_ir.terminal import quiet_libraries

    quiet_libraries()
    experiment = load_experiment(None, settings_of(Path(folder), steps, batch, workers))
    torch.set_num_threads(experiment.train.threads_per_worker or 1)
    rendezvous = f"file://{folder}/rendezvous-{os.getppid()}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=workers)
    store = open_store(experiment.store)
    model = load_encoder(experiment.encoder.name, max_tokens=experiment.encoder.max_tokens)
    builder = builder_for(experiment, store, plan_for(store, experiment), model.tokenizer)
    batches = [builder.build(step) for step in range(steps)]
    embedder = Embedder(model, precision="fp32", micro_batch_tokens=experiment.train.micro_batch_tokens)
    freeze_unused(embedder)
    optimizer = make_optimizer(embedder, experiment.train.learning_rate, experiment.train.weight_decay)
    wrapped = DistributedDataParallel(embedder) if workers > 1 else embedder
    embedder.train()
    loss = LossSettings(**experiment.loss.model_dump())
    dist.barrier()
    start = time.perf_counter()
    for each in batches:
        backward(wrapped, each, loss, rank, workers)
        update(optimizer, embedder, experiment.train.learning_rate, experiment.train.gradient_clip)
    dist.barrier()
    if rank == 0:
        Path(folder, "plain.txt").write_text(str((time.perf_counter() - start) / steps))
    dist.destroy_process_group()


def ours(folder: Path, steps: int, batch: int, workers: int) -> dict[str, float]:
    """Seconds a step of `hybrid-ir train`, the part of them that waited for input, and those before the first step."""
    out = Path(tempfile.mkdtemp(dir=folder))
    words = settings_of(folder, steps, batch, workers)
    begun = time.perf_counter()
    subprocess.run([*CLI, "train", f"out={out / 'run'}", *words], check=True, capture_output=True)
    whole = time.perf_counter() - begun
    metrics = json.loads((out / "run" / "metrics.json").read_text(encoding="utf-8"))
    s_per_step = metrics["seconds"] / steps
    return {"s_per_step": s_per_step, "waited": metrics["input_wait"] * s_per_step, "rest": whole - metrics["seconds"]}


def training(xquad: Path, rounds: int, steps: int, batch: int) -> None:
    print(
        "| workers | plain DDP ms a step | ours | ratio | of ours, waiting for input | start to end beside the steps, s |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(xquad, folder)
        source = f"prepare.sources=[{{kind: lareqa, path: {xquad}}}]"
        subprocess.run(
            [*CLI, "prepare", source, f"store={folder / 'store'}", *NOTHING_HELD_OUT], check=True, capture_output=True
        )
        for workers in COUNTS:
            pairs = []
            for number in range(rounds):
                command = [sys.executable, __file__, "plain", str(folder), str(steps), str(batch), str(workers)]
                pairs.append((run_json(command)["s_per_step"], ours(folder, steps, batch, workers)))
                print(f"round {number + 1}, {workers} workers: {pairs[-1]}", file=sys.stderr, flush=True)
            theirs = statistics.median(a for a, _ in pairs)
            own = {key: statistics.median(b[key] for _, b in pairs) for key in pairs[0][1]}
            ratio = statistics.median(b["s_per_step"] / a for a, b in pairs)
            print(
                f"| {workers} | {theirs * 1e3:.0f} | {own['s_per_step'] * 1e3:.0f} | {ratio:.2f} | "
                f"{own['waited'] * 1e3:.1f} | {own['rest']:.0f} |",
                flush=True,
            )


def plain_search(index: str, queries: list[str], k: int = 10) -> float:
    """Median milliseconds to encode a query and search one flat index, in this process."""
    import faiss

    from hybrid_ir.index_folder import read_manifest
    from hybrid_ir.query_encoder import QueryEncoder

    encoder = QueryEncoder(index, read_manifest(index), None, os.cpu_count() or 1)
    flat = faiss.read_index(f"{index}/shards/000/vectors.faiss")

    def one(text: str) -> float:
        start = time.perf_counter()
        flat.search(encoder([text], "query"), k)
        return (time.perf_counter() - start) * 1e3

    return statistics.median([one(text) for text in queries][len(queries) // 5 :])


def ask(text: str) -> tuple[float, dict[str, float]]:
    body = json.dumps({"query": text, "k": 10}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/search", body, {"Content-Type": "application/json"})
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=30) as response:
        said = json.loads(response.read())
    return (time.perf_counter() - start) * 1e3, said["timings_ms"]


def served(index: str, placement: str, queries: list[str]) -> dict[str, float]:
    """Median milliseconds of a request, and of its parts as the service tells them."""
    command = [*CLI, "serve", "--index", index, f"serve.port={PORT}", f"serve.placement={placement}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                ask(queries[0])
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the service of {index} did not come up")
                time.sleep(0.5)
        answers = [ask(text) for text in queries][len(queries) // 5 :]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=90)
    parts = {key: statistics.median(timing[key] for _, timing in answers) for key in answers[0][1]}
    return {"request": statistics.median(ms for ms, _ in answers), **parts}


def serving(xquad: Path, rounds: int, queries: int) -> None:
    from hybrid_ir.squad import lareqa_collection

    print("| shards | plain FAISS ms | placement | ours | more | encode | shards and passages | HTTP and Serve |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, _, _ = make_inputs(xquad, folder)
        texts = [q.text for q in lareqa_collection(xquad, "xquad-r").queries[::13]][:queries]
        for shards in COUNTS:
            build = [*CLI, "index", "--checkpoint", str(model), "--passages", str(xquad), "--out", f"{folder}/{shards}"]
            subprocess.run([*build, f"index.shards={shards}"], check=True, capture_output=True)
        results: dict[Any, list[Any]] = {}
        for number in range(rounds):
            results.setdefault("plain", []).append(
                run_json([sys.executable, __file__, "search", f"{folder}/1", json.dumps(texts)])["ms"]
            )
            for shards in COUNTS:
                for placement in ("local", "distributed"):
                    found = served(f"{folder}/{shards}", placement, texts)
                    results.setdefault((shards, placement), []).append(found)
                    print(f"round {number + 1}, {shards} shards, {placement}: {found}", file=sys.stderr, flush=True)
    base = statistics.median(results.pop("plain"))
    for (shards, placement), runs in results.items():
        own = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(
            f"| {shards} | {base:.1f} | {placement} | {own['request']:.1f} | {own['request'] - base:+.1f} | {own['encode']:.1f} | "
            f"{own['search']:.1f} | {own['request'] - own['total']:.1f} |"
        )


def main() -> None:
    if sys.argv[1:2] == ["plain"]:
        return plain(sys.argv[2], *map(int, sys.argv[3:]))
    if sys.argv[1:2] == ["search"]:
        return print(json.dumps({"ms": plain_search(sys.argv[2], json.loads(sys.argv[3]))}))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["training", "serving"])
    parser.add_argument("--xquad", type=Path, required=True, help="folder of XQuAD-R")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--queries", type=int, default=100)
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if args.what == "training":
        training(args.xquad, args.rounds, args.steps, args.batch_size)
    else:
        serving(args.xquad, args.rounds, args.queries)


if __name__ == "__main__":
    main()
