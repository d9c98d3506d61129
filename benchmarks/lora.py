"""What LoRA saves: steps of an encoder with all weights trained, and with adapters, in turn, medians.

    python benchmarks/lora.py --encoder FOLDER --xquad DIR --rounds 1

Steps of 64 pairs of XQuAD-R, as a training makes them, each round in a process of its own: seconds a step, and the most
memory that the process had. With dropout of the change, texts are padded and PEFT's own layers compute.
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

from hybrid_ir.encoders import Embedder, TextReader, add_lora, freeze_unused, load_encoder, quiet_libraries
from hybrid_ir.training.step import make_optimizer, update

PAIRS = 64
WAYS = {"all weights": None, "LoRA, rank 16": 0.0, "LoRA, rank 16, with dropout": 0.1}


def steps(way: str, folder: str, pairs: str, count: int, threads: int) -> None:
    """One round: a warm-up step, then `count` steps. Prints one JSON line."""
    quiet_libraries()
    torch.set_num_threads(threads)
    model = load_encoder(folder)
    if (dropout := WAYS[way]) is not None:
        add_lora(model, base=folder, rank=16, alpha=32.0, dropout=dropout)
    embedder = Embedder(model, precision="auto", micro_batch_tokens=None)
    freeze_unused(embedder)
    optimizer = make_optimizer(embedder, 5e-5, 0.01)
    embedder.train()
    reader, table, seconds = TextReader.of(model), pq.read_table(pairs), []
    for step in range(count + 1):
        began = time.perf_counter()
        rows = table.slice(step * PAIRS, PAIRS)
        tokens = reader.read(rows["query"].to_pylist(), "query") + reader.read(rows["passage"].to_pylist(), "document")
        queries, passages = embedder(tokens).split(PAIRS)
        torch.nn.functional.cross_entropy(queries @ passages.T / 0.05, torch.arange(PAIRS)).backward()
        update(optimizer, embedder, 5e-5, 1.0)
        seconds.append(time.perf_counter() - began)
    figures = {
        "seconds": statistics.median(seconds[1:]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
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
    parser.add_argument("--one", nargs=2, metavar=("WAY", "PAIRS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        way, pairs = given.one
        return steps(way, given.encoder, pairs, given.steps, given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        _, pairs, _ = make_inputs(given.xquad, Path(scratch))
        rounds: dict[str, list[dict]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            for way, found in rounds.items():
                words = [sys.executable, __file__, "--xquad", str(given.xquad), "--encoder", given.encoder]
                words += ["--one", way, str(pairs), "--steps", str(given.steps), "--threads", str(given.threads)]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
                print(way, found[-1], file=sys.stderr, flush=True)
    print("| trained | values | s a step | peak MB | precision |\n|---|---|---|---|---|")
    for way, found in rounds.items():
        seconds, peak = (statistics.median(each[key] for each in found) for key in ("seconds", "peak_mb"))
        print(f"| {way} | {found[0]['trained']:,} | {seconds:.2f} | {peak:.0f} | {found[0]['precision']} |")


if __name__ == "__main__":
    main()
