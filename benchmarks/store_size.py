"""What a larger store costs training: batches per second, and resident memory of the builder, at 10 thousand to 1
million groups.

    python benchmarks/store_size.py --groups 10000 100000 1000000

Each size runs in a process of its own: a store of made-up groups in three languages is written, then `--steps`
batches are read, tokenised and dropped, spread over the whole epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from pairs import run_json

from hybrid_ir.batches.from_experiment import builder_for, plan_for
from hybrid_ir.config.loading import parse_experiment
from hybrid_ir.data.inputs import Input
from hybrid_ir.data.prepare import prepare
from hybrid_ir.data.store import open_store
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.presets import create_encoder
from hybrid_ir.encoders.quiet import quiet_libraries
from hybrid_ir.encoders.tokens import TextReader
from hybrid_ir.types import Group, Passage

LANGUAGES = ("de", "en", "es")


def made_up(n: int):
    words = [f"w{i}" for i in range(5000)]
    rng = random.Random(0)
    for i in range(n):
        text = {x: " ".join(rng.choices(words, k=20)) for x in LANGUAGES}
        yield Group(
            str(i),
            str(i),
            {x: " ".join(text[x].split()[:8]) for x in LANGUAGES},
            {x: (Passage(f"{i}", text[x]),) for x in LANGUAGES},
        )


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def one(folder: str, steps: int) -> None:
    quiet_libraries()
    experiment = parse_experiment(
        {"store": f"{folder}/store", "batch": {"size": 64}, "encoder": {"max_tokens": 64}}, ""
    )
    store = open_store(experiment.store)
    plan = plan_for(store, experiment)
    build = builder_for(experiment, store, plan, TextReader.of(load_encoder(f"{folder}/model"))).build
    rows = sum(p.rows for p in store.partitions)
    stride = max(8, rows // 64 // (steps // 8))
    order = [
        s + i for s in range(0, steps // 8 * stride, stride) for i in range(8)
    ]  # chunks of 8, as the feed reads them
    for step in order[: steps // 4]:
        build(step)
    start = time.perf_counter()
    for step in order:
        build(step)
    seconds = time.perf_counter() - start
    print(json.dumps({"groups": rows, "batches_per_s": len(order) / seconds, "resident_mb": resident_mb()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(args.one, args.steps)
    print("| groups | prepare, s | store, MB | batches of 64 a second | resident, MB |\n|---|---|---|---|---|")
    for n in args.groups:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            source = Input("made-up", lambda n=n: made_up(n))
            prepare([source], f"{folder}/store", seed=0, validation_fraction=0, test_fraction=0, settings={})
            seconds = time.perf_counter() - start
            size = sum(f.stat().st_size for f in Path(folder, "store").rglob("*.parquet")) / 1e6
            texts = [p.text for g in made_up(500) for (p,) in g.passages.values()]
            create_encoder("tiny", texts, f"{folder}/model", vocabulary=4000, max_tokens=64, seed=0)
            got = run_json([sys.executable, __file__, "--one", folder, "--steps", str(args.steps)])
            print(
                f"| {got['groups']:,} | {seconds:.0f} | {size:.0f} | {got['batches_per_s']:.0f} | {got['resident_mb']:.0f} |",  # noqa: E501
                flush=True,
            )


if __name__ == "__main__":
    main()
