"""Our training step, in one process: prints one JSON line. `speed.py` runs it beside its peer.

python benchmarks/training.py MODEL PAIRS --steps 20
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hybrid_ir.batches.batch import Batch
from hybrid_ir.encoders.embedding import Embedder, freeze_unused
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.quiet import quiet_libraries
from hybrid_ir.encoders.tokens import tokenize
from hybrid_ir.training.step import LossSettings, backward, make_optimizer, update


def ours(
    model_dir: str, pairs: str, batch_size: int, steps: int, threads: int, precision: str, warmup_steps: int = 3
) -> None:
    """Our step over the same pairs, tokenising included. Prints one JSON line."""
    quiet_libraries()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = load_encoder(model_dir)
    embedder = Embedder(model, precision=precision, micro_batch_tokens=None)
    freeze_unused(embedder)
    optimizer = make_optimizer(embedder, 5e-4, 0.0)
    embedder.train()
    table = pq.read_table(pairs)
    order = np.random.default_rng(0).permutation(len(table))
    settings = LossSettings(0.05, False, "in_batch", False)
    waited, tokens, losses = 0.0, 0, []
    gc.freeze()  # as a worker does
    start = time.perf_counter()
    for step in range(steps + warmup_steps):
        if step == warmup_steps:
            start, waited, tokens = time.perf_counter(), 0.0, 0
        began = time.perf_counter()
        rows = table.take(order[step * batch_size : (step + 1) * batch_size])
        batch = batch_of(model, rows, step)
        waited += time.perf_counter() - began
        tokens += len(batch.query_tokens.flat) + len(batch.passage_tokens.flat)
        losses.append(float(backward(embedder, batch, settings, 0, 1)))
        update(optimizer, embedder, 5e-4, 1.0)
    seconds = time.perf_counter() - start
    print(json.dumps({
        "pairs_per_s": steps * batch_size / seconds,
        "s_per_step": seconds / steps,
        "input_share": waited / seconds,
        "last_loss": losses[-1],
        "precision": embedder.precision,
        "tokens_per_step": tokens / steps,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))  # fmt: skip


def batch_of(model: Any, rows: pa.Table, step: int) -> Batch:
    """A global batch of rows of the pairs, tokenised here."""
    size = len(rows)
    return Batch(
        step=step,
        kind="monolingual",
        pairs=(("en", "en"),) * size,
        query_tokens=tokenize(model.tokenizer, rows["query"].to_pylist(), "", model.max_seq_length),
        passage_tokens=tokenize(model.tokenizer, rows["passage"].to_pylist(), "", model.max_seq_length),
        negative_tokens=None,
        passage_ids_BLS=np.arange(size)[:, None, None],
        passage_language_B=np.zeros(size, dtype=np.int64),
        query_ids_BM=np.arange(size)[:, None],
        query_language_B=np.zeros(size, dtype=np.int64),
        negative_ids_N=None,
        negative_row_N=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of an encoder")
    parser.add_argument("pairs", help="Parquet file with the columns query and passage")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup-steps", type=int, default=3, help="steps that are not timed")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    ours(given.model, given.pairs, given.batch_size, given.steps, given.threads, given.precision, given.warmup_steps)


if __name__ == "__main__":
    main()
