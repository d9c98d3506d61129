"""What our layers cost: a training step beside plain torch DDP, a request beside plain FAISS, at 1, 2 and 4 workers
or shards.

    python benchmarks/overhead.py training --xquad DIR
    python benchmarks/overhead.py serving --xquad DIR

All sides of `training` run the same step (`backward` and `update`) on the same batches. Plain DDP has them built
before its clock starts, and logs nothing; ours is `hybrid-ir train`, its batches from a thread of the worker or from
Ray Data. The encoder is the smallest (`tiny`), so that what is beside the step shows. Both sides of `serving` encode
with the same encoder; plain FAISS is one flat index in the process that asks, ours is `hybrid-ir serve`, one request
at a time. Runs alternate; medians.
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

CLI = [sys.executable, "-m", "hybrid_ir.cli"]
PORT = 8903
SETTLE_S = 10
"""Serve goes on starting processes after the first answer."""
WARM_UP = 20
"""Queries before those that count."""
NOTHING_HELD_OUT = ("prepare.validation_fraction=0", "prepare.test_fraction=0")


def settings_of(folder: Path, steps: int, batch: int, workers: int) -> list[str]:
    return [
        f"store={folder / 'store'}", f"encoder.name={folder / 'initial'}", "encoder.max_tokens=128", f"batch.size={batch}",  # noqa: E501
        f"train.steps={steps}", f"train.workers={workers}", "train.evaluate_every=null", "train.checkpoint_every=null",
        "train.cpus_per_worker=0.4", "train.cpus_per_data_actor=0.2", "train.trackers=[]", "train.precision=fp32",
        f"train.threads_per_worker={max(1, (os.cpu_count() or 1) // workers)}",
    ]  # fmt: skip


def plain(folder: str, steps: int, batch: int, workers: int) -> None:
    """Seconds a step of plain DDP, and to build a batch, as one JSON line."""
    import torch.multiprocessing as mp

    mp.spawn(plain_rank, args=(folder, steps, batch, workers), nprocs=workers)
    print(Path(folder, "plain.json").read_text())


def plain_rank(rank: int, folder: str, steps: int, batch: int, workers: int) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from hybrid_ir.batches.from_experiment import builder_for, plan_for
    from hybrid_ir.config.loading import load_experiment
    from hybrid_ir.data.store import open_store
    from hybrid_ir.encoders.embedding import Embedder, freeze_unused
    from hybrid_ir.encoders.quiet import quiet_libraries
    from hybrid_ir.encoders.tokens import TextReader
    from hybrid_ir.training.checkpoint import load_model
    from hybrid_ir.training.step import LossSettings, backward, make_optimizer, update

    quiet_libraries()
    experiment = load_experiment(None, settings_of(Path(folder), steps, batch, workers))
    torch.set_num_threads(experiment.train.threads_per_worker or 1)
    rendezvous = f"file://{folder}/rendezvous-{os.getppid()}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=workers)
    store = open_store(experiment.store)
    model = load_model(experiment, experiment.encoder.name, torch.device("cpu"))
    builder = builder_for(experiment, store, plan_for(store, experiment), TextReader.of(model))
    start = time.perf_counter()
    batches = [builder.build(step) for step in range(steps)]
    built_s = time.perf_counter() - start
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
        figures = {"step": (time.perf_counter() - start) / steps, "build": built_s / steps}
        Path(folder, "plain.json").write_text(json.dumps(figures))
    dist.destroy_process_group()


def ours(folder: Path, steps: int, batch: int, workers: int, feed: str) -> dict[str, float]:
    """Seconds a step of `hybrid-ir train`, the part of them that waited for input, and those beside the steps."""
    out = Path(tempfile.mkdtemp(dir=folder))
    words = [f"train.feed={feed}", *settings_of(folder, steps, batch, workers)]
    begun = time.perf_counter()
    subprocess.run([*CLI, "train", f"out={out / 'run'}", *words], check=True, capture_output=True)
    whole = time.perf_counter() - begun
    metrics = json.loads((out / "run" / "metrics.json").read_text(encoding="utf-8"))
    step = metrics["seconds"] / steps
    return {"step": step, "waited": metrics["input_wait"] * step, "beside": whole - metrics["seconds"]}


def training(xquad: Path, rounds: int, counts: list[int], steps: int, batch: int) -> None:
    from hybrid_ir.encoders.presets import create_encoder

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sentences = make_inputs(xquad, folder / "inputs")[2].read_text(encoding="utf-8").splitlines()
        create_encoder("tiny", sentences, folder / "initial", vocabulary=16000, max_tokens=128, seed=0)
        source = f"prepare.sources=[{{kind: lareqa, path: {xquad}}}]"
        subprocess.run(
            [*CLI, "prepare", source, f"store={folder / 'store'}", *NOTHING_HELD_OUT], check=True, capture_output=True
        )
        rows: dict[int, list[dict[str, dict[str, float]]]] = {workers: [] for workers in counts}
        for number in range(rounds):
            for workers in counts:
                command = [sys.executable, __file__, "plain", str(folder), str(steps), str(batch), str(workers)]
                row = {"plain": run_json(command)}
                for feed in ("in_process", "ray_data"):
                    row[feed] = ours(folder, steps, batch, workers, feed)
                rows[workers].append(row)
                print(f"round {number + 1}, {workers} workers: {row}", file=sys.stderr, flush=True)
    print("| workers | plain DDP, ms a step | ours, a thread's batches | over plain | waited | ours, Ray Data's | over plain | waited | "  # noqa: E501
          "one batch built alone | beside the steps, s |\n|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for workers, runs in rows.items():

        def ms(side: str, key: str, runs: Any = runs) -> float:
            return 1e3 * statistics.median(run[side][key] for run in runs)

        def over(side: str, runs: Any = runs) -> float:
            return statistics.median(run[side]["step"] / run["plain"]["step"] for run in runs)

        cells = [f"{ms('plain', 'step'):.0f}"]
        for feed in ("in_process", "ray_data"):
            cells += [f"{ms(feed, 'step'):.0f}", f"{over(feed):.2f}", f"{ms(feed, 'waited'):.1f}"]
        print(
            f"| {workers} | {' | '.join(cells)} | {ms('plain', 'build'):.1f} | {ms('ray_data', 'beside') / 1e3:.0f} |"
        )


def plain_search(index: str, queries: list[str], k: int = 10) -> dict[str, float]:
    """Median milliseconds to encode a query, and to search one flat index, in this process."""
    import faiss

    from hybrid_ir.index.folder import read_manifest
    from hybrid_ir.serving.query_encoder import QueryEncoder

    encoder = QueryEncoder(index, read_manifest(index), None, os.cpu_count() or 1)
    flat = faiss.read_index(f"{index}/shards/000/vectors.faiss")
    times: dict[str, list[float]] = {"encode": [], "search": [], "request": []}
    for text in queries:
        start = time.perf_counter()
        vector = encoder([text], "query")
        encoded = time.perf_counter()
        flat.search(vector, k)
        end = time.perf_counter()
        for key, seconds in (("encode", encoded - start), ("search", end - encoded), ("request", end - start)):
            times[key].append(1e3 * seconds)
    return {key: statistics.median(values[WARM_UP:]) for key, values in times.items()}


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
        time.sleep(SETTLE_S)
        answers = [ask(text) for text in queries][WARM_UP:]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=90)
    parts = {key: statistics.median(timing[key] for _, timing in answers) for key in answers[0][1]}
    return {"request": statistics.median(ms for ms, _ in answers), **parts}


def serving(xquad: Path, rounds: int, counts: list[int], queries: int, keep: Path | None) -> None:
    from hybrid_ir.data.sources.lareqa import lareqa_collection

    with tempfile.TemporaryDirectory() as name:
        folder = keep or Path(name)
        model, _, _ = make_inputs(xquad, folder)
        texts = [q.text for q in lareqa_collection(xquad, "xquad-r").queries[::13]][:queries]
        for shards in {1, *counts}:
            if (folder / str(shards) / "manifest.json").is_file():
                continue
            build = [*CLI, "index", "--checkpoint", str(model), "--passages", str(xquad), "--out", f"{folder}/{shards}"]
            subprocess.run([*build, f"index.shards={shards}"], check=True, capture_output=True)
        plain: list[dict[str, float]] = []
        rows: dict[tuple[int, str], list[dict[str, float]]] = {
            (n, p): [] for n in counts for p in ("local", "distributed")
        }
        for number in range(rounds):
            plain.append(run_json([sys.executable, __file__, "search", f"{folder}/1", json.dumps(texts)]))
            print(f"round {number + 1}, plain: {plain[-1]}", file=sys.stderr, flush=True)
            for (shards, placement), runs in rows.items():
                runs.append(served(f"{folder}/{shards}", placement, texts))
                print(f"round {number + 1}, {shards} shards, {placement}: {runs[-1]}", file=sys.stderr, flush=True)

    def middle(runs: list[dict[str, float]]) -> dict[str, float]:
        return {key: statistics.median(run[key] for run in runs) for key in runs[0]}

    base = middle(plain)
    print(
        "| shards | placement | a request, ms | more than plain | encode | shards and passages | waiting in the gateway | HTTP and Serve |"  # noqa: E501
    )
    print("|---|---|---|---|---|---|---|---|")
    print(f"| 1 | plain FAISS | {base['request']:.1f} | | {base['encode']:.1f} | {base['search']:.1f} | | |")
    for (shards, placement), runs in rows.items():
        own = middle(runs)
        print(
            f"| {shards} | {placement} | {own['request']:.1f} | {own['request'] - base['request']:+.1f} | {own['encode']:.1f} | "  # noqa: E501
            f"{own['search']:.1f} | {own['queue']:.1f} | {own['request'] - own['total']:.1f} |"
        )


def main() -> None:
    if sys.argv[1:2] == ["plain"]:
        return plain(sys.argv[2], *map(int, sys.argv[3:]))
    if sys.argv[1:2] == ["search"]:
        return print(json.dumps(plain_search(sys.argv[2], json.loads(sys.argv[3]))))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["training", "serving"])
    parser.add_argument("--xquad", type=Path, required=True, help="folder of XQuAD-R")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4], help="workers, or shards")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--keep", type=Path, help="folder to keep the indices of `serving` in, and to find them in")
    parser.add_argument("--queries", type=int, default=120)
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if args.what == "training":
        training(args.xquad, args.rounds, args.counts, args.steps, args.batch_size)
    else:
        serving(args.xquad, args.rounds, args.counts, args.queries, args.keep)


if __name__ == "__main__":
    main()
