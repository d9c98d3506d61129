"""What a smaller vocabulary and fewer layers save: the same encoder whole and cut, in turn, medians.

    python benchmarks/smaller.py --encoder multilingual-e5-small --xquad DIR --rounds 3

Steps of 64 pairs of XQuAD-R, as a training makes them, each round in a process of its own: seconds and CPU seconds a
step, and the most memory that the process had.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from pairs import make_inputs

from hybrid_ir.encoders import (
    Embedder,
    TextReader,
    freeze_unused,
    keep_layers,
    load_encoder,
    quiet_libraries,
    save_encoder,
    trim_vocabulary,
)
from hybrid_ir.training.step import make_optimizer, update

PAIRS = 64


def steps(folder: str, pairs: str, count: int, threads: int, dropout: float) -> None:
    """One round: a warm-up step, then `count` steps. Prints one JSON line."""
    quiet_libraries()
    torch.set_num_threads(threads)
    model = load_encoder(folder, dropout=dropout)
    embedder = Embedder(model, precision="auto", micro_batch_tokens=None)
    freeze_unused(embedder)
    optimizer = make_optimizer(embedder, 5e-5, 0.01)
    embedder.train()
    reader, table = TextReader.of(model), pq.read_table(pairs)
    for step in range(count + 1):
        if step == 1:
            began, used = time.perf_counter(), time.process_time()
        rows = table.slice(step * PAIRS, PAIRS)
        tokens = reader.read(rows["query"].to_pylist(), "query") + reader.read(rows["passage"].to_pylist(), "document")
        queries, passages = embedder(tokens).split(PAIRS)
        torch.nn.functional.cross_entropy(queries @ passages.T / 0.05, torch.arange(PAIRS)).backward()
        update(optimizer, embedder, 5e-5, 1.0)
    figures = {
        "seconds": (time.perf_counter() - began) / count,
        "cpu_seconds": (time.process_time() - used) / count,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": embedder.precision,
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="multilingual-e5-small")
    parser.add_argument("--xquad", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "PAIRS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return steps(*given.one, given.steps, given.threads, given.dropout)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        _, pairs, texts = make_inputs(given.xquad, work)
        lines = texts.read_text(encoding="utf-8").splitlines() + pq.read_table(pairs)["query"].to_pylist()
        folders = {}
        for name, layers, trimmed in (
            ("whole", None, False),
            ("vocabulary cut", None, True),
            ("and 6 layers", 6, True),
        ):
            model = load_encoder(given.encoder)
            if layers:
                keep_layers(model, layers)
            if trimmed:
                trim_vocabulary(model, lines)
            save_encoder(model, work / name)
            folders[name] = str(work / name)
        rounds: dict[str, list[dict]] = {name: [] for name in folders}
        for _ in range(given.rounds):
            for name, folder in folders.items():
                words = [sys.executable, __file__, "--xquad", str(given.xquad), "--one", folder, str(pairs)]
                words += ["--steps", str(given.steps), "--threads", str(given.threads), "--dropout", str(given.dropout)]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                rounds[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(name, rounds[name][-1], file=sys.stderr, flush=True)
        print(f"precision {rounds['whole'][0]['precision']}, {given.threads} threads, dropout {given.dropout:g}\n")
        print("| encoder | million parameters | s a step | CPU s a step | peak MB |\n|---|---|---|---|---|")
        for name, all_of_it in rounds.items():
            seconds, used, peak, parameters = (
                statistics.median(each[key] for each in all_of_it)
                for key in ("seconds", "cpu_seconds", "peak_mb", "parameters")
            )
            print(f"| {name} | {parameters / 1e6:.1f} | {seconds:.2f} | {used:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
