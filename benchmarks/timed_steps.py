"""Steps of 64 pairs, as a training makes them, of an encoder's folder: prints one JSON line of what they cost.

    python benchmarks/timed_steps.py FOLDER PAIRS --steps 5

`smaller.py` and `lora.py` start it once a round, so that the peak of memory is of these steps. `stepper` is a step by
itself.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import torch

from hybrid_ir.encoders import Embedder, TextReader, add_lora, freeze_unused, load_encoder, quiet_libraries
from hybrid_ir.training.step import make_optimizer, update

PAIRS = 64


def stepper(model: Any, pairs: str) -> tuple[Callable[[int], None], Embedder]:
    """A function that trains the model on the pairs of the step of that number, texts read included."""
    embedder = Embedder(model, precision="auto", micro_batch_tokens=None)
    freeze_unused(embedder)
    optimizer, reader, table = make_optimizer(embedder, 5e-5, 0.01), TextReader.of(model), pq.read_table(pairs)
    embedder.train()

    def step(number: int) -> None:
        rows = table.slice(number * PAIRS, PAIRS)
        tokens = reader.read(rows["query"].to_pylist(), "query") + reader.read(rows["passage"].to_pylist(), "document")
        queries, passages = embedder(tokens).split(PAIRS)
        torch.nn.functional.cross_entropy(queries @ passages.T / 0.05, torch.arange(PAIRS)).backward()
        update(optimizer, embedder, 5e-5, 1.0)

    return step, embedder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of an encoder")
    parser.add_argument("pairs", help="Parquet file with the columns query and passage")
    parser.add_argument("--steps", type=int, default=5, help="that are timed, behind one that is not")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, help="of layers")
    parser.add_argument("--lora-rank", type=int)
    parser.add_argument("--lora-dropout", type=float, default=0.0)
    given = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(given.threads)
    model = load_encoder(given.folder, dropout=given.dropout)
    if given.lora_rank is not None:
        add_lora(model, base=given.folder, rank=given.lora_rank, alpha=32.0, dropout=given.lora_dropout)
    step, embedder = stepper(model, given.pairs)
    seconds, cpu_seconds = [], []
    for number in range(given.steps + 1):
        began, used = time.perf_counter(), time.process_time()
        step(number)
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - used)
    print(json.dumps({
        "seconds": statistics.median(seconds[1:]),
        "cpu_seconds": statistics.median(cpu_seconds[1:]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "precision": embedder.precision,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
