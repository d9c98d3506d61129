"""A batch larger than memory, through the gradient cache: its peak memory and its time a token beside a batch of 64.

    python benchmarks/large_batch.py --xquad XQUAD_R --encoder cut

Pairs of XQuAD-R. Each size in a process of its own, started as a training's worker is: two small steps, by which the
optimiser's state is there, and then the steps that are timed. Peaks are of the whole process.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from pairs import make_inputs, run_json
from training import batch_of

from hybrid_ir.encoders import Embedder, freeze_unused, load_encoder, quiet_libraries
from hybrid_ir.machine import KEEPING_MEMORY
from hybrid_ir.training.step import LossSettings, backward, make_optimizer, update

PLAIN = 64


def steps(folder: str, pairs: str, size: int, count: int, threads: int) -> None:
    """`count` steps of `size` pairs, cached if they are more than `PLAIN`. Prints one JSON line."""
    quiet_libraries()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = load_encoder(folder)
    embedder = Embedder(model, precision="auto", micro_batch_tokens=None)
    freeze_unused(embedder)
    optimizer = make_optimizer(embedder, 5e-5, 0.01)
    embedder.train()
    settings = LossSettings(0.05, False, "in_batch", cached=size > PLAIN)
    table = pq.read_table(pairs)
    order = np.random.default_rng(0).permutation(len(table))
    sizes = [min(size, PLAIN)] * 2 + [size] * count
    times, tokens = [], []
    gc.freeze()  # as a worker does
    for step, end in enumerate(np.cumsum(sizes).tolist()):
        batch = batch_of(model, table.take(order[end - sizes[step] : end]), step)
        began = time.perf_counter()
        backward(embedder, batch, settings, 0, 1)
        update(optimizer, embedder, 5e-5, 1.0)
        times.append(time.perf_counter() - began)
        tokens.append(len(batch.query_tokens.flat) + len(batch.passage_tokens.flat))
    print(json.dumps({
        "pairs": size,
        "us_a_token": 1e6 * sum(times[2:]) / sum(tokens[2:]),
        "tokens_a_step": statistics.mean(tokens[2:]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "precision": embedder.precision,
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=["whole", "cut", "mini"], default="cut")
    parser.add_argument("--xquad", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[PLAIN, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=4, metavar=("FOLDER", "PAIRS", "SIZE", "STEPS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        folder, pairs, size, count = given.one
        return steps(folder, pairs, int(size), int(count), given.threads)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        model, pairs, _ = make_inputs(given.xquad, Path(scratch), encoder=given.encoder)
        keeping = ["env", *(f"{name}={value}" for name, value in KEEPING_MEMORY.items())]  # as a worker is started
        own = [*keeping, sys.executable, __file__, "--xquad", str(given.xquad), "--threads", str(given.threads)]
        runs: dict[int, list[dict]] = {size: [] for size in given.sizes}
        for _ in range(given.rounds):
            for size, made in runs.items():
                count = max(1, 12 * PLAIN // size)
                made.append(run_json([*own, "--one", str(model), str(pairs), str(size), str(count)]))
                print(json.dumps(made[-1]), file=sys.stderr, flush=True)
    first = runs[given.sizes[0]]
    print("| pairs | us a token | over the first | peak memory (MB) | over the first |")
    print("|---|---|---|---|---|")
    for size, made in runs.items():
        cells = [str(size)]
        for key in ("us_a_token", "peak_mb"):
            ratio = statistics.median(a[key] / b[key] for a, b in zip(made, first, strict=True))
            cells += [f"{statistics.median(each[key] for each in made):.0f}", f"{ratio:.2f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
