"""Training speed beside sentence-transformers' own trainer: same model, pairs, batch, threads; alternating runs,
medians.

python benchmarks/training.py --xquad DIR --peer PEERS/train_peer.py
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from pairs import alternate, make_inputs, print_table

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
    embedder = Embedder(model, precision=precision, micro_batch_tokens=1024)
    freeze_unused(embedder)
    optimizer = make_optimizer(embedder, 5e-4, 0.0)
    embedder.train()
    table = pq.read_table(pairs)
    order = np.random.default_rng(0).permutation(len(table))
    settings = LossSettings(0.05, False, "in_batch", False)
    waited, losses = 0.0, []
    start = time.perf_counter()
    for step in range(steps + warmup_steps):
        if step == warmup_steps:
            start, waited = time.perf_counter(), 0.0
        began = time.perf_counter()
        rows = table.take(order[step * batch_size : (step + 1) * batch_size])
        batch = Batch(
            step=step,
            kind="monolingual",
            pairs=(("en", "en"),) * batch_size,
            query_tokens=tokenize(model.tokenizer, rows["query"].to_pylist(), "", model.max_seq_length),
            passage_tokens=tokenize(model.tokenizer, rows["passage"].to_pylist(), "", model.max_seq_length),
            negative_tokens=None,
            passage_ids_BL=np.arange(batch_size)[:, None],
            passage_language_B=np.zeros(batch_size, dtype=np.int64),
            query_ids_BM=np.arange(batch_size)[:, None],
            query_language_B=np.zeros(batch_size, dtype=np.int64),
            negative_ids_B=None,
        )
        waited += time.perf_counter() - began
        losses.append(backward(embedder, batch, settings, 0, 1))
        update(optimizer, embedder, 5e-4, 1.0)
    seconds = time.perf_counter() - start
    print(json.dumps({
        "pairs_per_s": steps * batch_size / seconds,
        "s_per_step": seconds / steps,
        "input_share": waited / seconds,
        "last_loss": losses[-1],
        "precision": embedder.precision,
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--xquad", type=Path, help="folder of XQuAD-R")
    parser.add_argument("--peer", help="train_peer.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-bf16-peer", action="store_true", help="leave the peer's bf16 run out")
    parser.add_argument("--ours", nargs=2, metavar=("MODEL", "PAIRS"), help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="auto", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        return ours(*args.ours, args.batch_size, args.steps, args.threads, args.precision)
    with tempfile.TemporaryDirectory() as folder:
        model, pairs, _ = make_inputs(args.xquad, Path(folder))
        common = ["--batch-size", str(args.batch_size), "--steps", str(args.steps), "--threads", str(args.threads)]
        peer = [sys.executable, args.peer, "--model", str(model), "--pairs", str(pairs), *common]
        commands = {
            "ours": [sys.executable, __file__, "--ours", str(model), str(pairs), *common],
            "peer fp32": peer,
            **({} if args.no_bf16_peer else {"peer bf16": [*peer, "--bf16"]}),
        }
        print_table(alternate(commands, "pairs_per_s", args.rounds), "ours", "pairs/s")


if __name__ == "__main__":
    main()
