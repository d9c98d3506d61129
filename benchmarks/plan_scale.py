"""Whether plan, ledger and index layout hold at 100 million, in bounded memory: a simulation, of numbers without texts.

python benchmarks/plan_scale.py --groups 1e6 1e7 1e8

Groups and passages are in MIRACL's 18 languages, in the proportions of its corpora. Of the groups half are in one
language alone, 30 % in English and one other language, 10 % in the six largest, 6 % in the twelve largest and 4 % in
all: 38 partitions. The index's languages are drawn a fragment at a time. Each size runs in a process of its own.
Times are of the process's CPU, and of the clock beside them; of random steps, and of steps that follow each other,
as a training asks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from hybrid_ir.batches.plan import Plan, make_plan
from hybrid_ir.data.store import Partition
from hybrid_ir.index.codec import ROWS_PER_SHARD
from hybrid_ir.index.fragments import FRAGMENT_ROWS
from hybrid_ir.index.writing import cut_shards

MIRACL = {
    "ar": 2_061_414, "bn": 297_265, "en": 32_893_221, "es": 10_373_953, "fa": 2_207_172, "fi": 1_883_509,
    "fr": 14_636_953, "hi": 506_264, "id": 1_446_315, "ja": 6_953_614, "ko": 1_486_752, "ru": 9_543_918,
    "sw": 131_924, "te": 518_079, "th": 542_166, "zh": 4_934_368, "de": 15_866_222, "yo": 49_043,
}  # fmt: skip
HYBRID = {"monolingual": 0.5, "cross_lingual": 0.5}
WINDOW = 2000
"""Consecutive steps in which no group may come twice."""


def partitions_of(groups: int) -> list[Partition]:
    by_size = sorted(MIRACL, key=lambda x: -MIRACL[x])
    total, others = sum(MIRACL.values()), sum(n for x, n in MIRACL.items() if x != "en")
    shares = {(x,): 0.5 * n / total for x, n in MIRACL.items()}
    shares |= {("en", x): 0.3 * n / others for x, n in MIRACL.items() if x != "en"}
    shares |= {tuple(by_size[:6]): 0.1, tuple(by_size[:12]): 0.06, tuple(by_size): 0.04}
    return [
        Partition(f"p{n:03d}", tuple(sorted(languages)), round(groups * share))
        for n, (languages, share) in enumerate(shares.items())
    ]


def simulate_plan(groups: int, batch_size: int, queries: int) -> dict[str, object]:
    before = memory_mb("VmRSS")
    start = time.process_time()
    plan = make_plan(partitions_of(groups), weights=HYBRID, batch_size=batch_size, seed=0)
    made_s = time.process_time() - start
    steps = groups // batch_size
    middle = steps // 2
    asked = {
        "random": np.random.default_rng(0).integers(0, steps, queries).tolist(),
        "next": range(middle, middle + queries),
    }
    milliseconds = {}
    for order, them in asked.items():
        cpu, clock = [], []
        for step in them:
            at = time.perf_counter(), time.process_time()
            plan.batch(step)
            clock.append(1e3 * (time.perf_counter() - at[0]))
            cpu.append(1e3 * (time.process_time() - at[1]))
        milliseconds[order] = {
            f"{name} {quantile}": round(float(np.quantile(values, quantile)), 2)
            for name, values in (("cpu", cpu), ("clock", clock)) for quantile in (0.5, 0.99)
        }  # fmt: skip
    return {
        "groups": groups, "batch": batch_size, "partitions": len(plan.partitions), "unused": len(plan.unused),
        "make_plan_s": round(made_s, 3), "steps": steps,
        "ms": milliseconds,
        "rss_mb": {"before": round(before), "after": round(memory_mb("VmRSS"))},
        "ledger_batches_off": round(ledger_error(plan, steps), 3),
        "groups_seen_in_windows": check_windows(plan, steps),
    }  # fmt: skip


def ledger_error(plan: Plan, steps: int) -> float:
    """Largest distance of a pair's realised rows from what was asked, in batches, over a hundred moments of the
    epoch.
    """
    worst = 0.0
    asked = plan.asked()
    for at in np.linspace(1, steps, 100, dtype=np.int64).tolist():
        realised = plan.realised(at)
        assert sum(n for pairs in realised.values() for n in pairs.values()) == at * plan.batch_size
        for kind, pairs in asked.items():
            for pair, share in pairs.items():
                worst = max(worst, abs(realised[kind][pair] / plan.batch_size - share * at))
    return worst


def check_windows(plan: Plan, steps: int) -> int:
    """Rows of three windows of steps, the start of the epoch, its middle and a random place: within a partition's
    epoch each is new, in its partition's range, and of its pair's languages."""
    counted = 0
    for first in (0, steps // 2, int(np.random.default_rng(1).integers(steps))):
        seen: set[tuple[int, int, int]] = set()
        epochs = plan.epochs(first)
        given = [round(epochs[p.name] * p.rows) for p in plan.partitions]
        for step in range(first, min(first + WINDOW * 64 // plan.batch_size, steps)):
            batch = plan.batch(step)
            for partition, row, pair in zip(batch.partition_B.tolist(), batch.row_B.tolist(), batch.pairs, strict=True):
                home = plan.partitions[partition]
                key = partition, given[partition] // home.rows, row
                if key in seen or not 0 <= row < home.rows or not set(pair) <= set(home.languages):
                    raise SystemExit(f"step {step}: row {row} of {home.name} ({pair}) comes twice, or should not come")
                seen.add(key)
                given[partition] += 1
        counted += len(seen)
    return counted


def simulate_layout(passages: int) -> dict[str, object]:
    """Shards as index_job cuts them. Languages come a fragment at a time, as ingest writes them."""
    names = tuple(MIRACL)
    chances = np.array(list(MIRACL.values())) / sum(MIRACL.values())
    rng = np.random.default_rng(0)
    before, start = memory_mb("VmHWM"), time.process_time()
    languages = np.empty(passages, dtype=np.int16)
    for first in range(0, passages, FRAGMENT_ROWS):
        rows = min(FRAGMENT_ROWS, passages - first)
        languages[first : first + rows] = rng.choice(len(names), size=rows, p=chances)
    drawn_s, start = time.process_time() - start, time.process_time()
    parts = cut_shards(languages, names, -(-passages // ROWS_PER_SHARD), "language", 0)
    cut_s = time.process_time() - start
    peak = memory_mb("VmHWM")
    sizes = [len(part) for part in parts]
    held = [len(np.unique(languages[part])) for part in parts]
    seen = np.zeros(passages, dtype=bool)
    for part in parts:
        seen[part] = True
    assert seen.all()
    assert sum(sizes) == passages
    return {
        "passages": passages, "shards": len(parts), "rows": [min(sizes), max(sizes)],
        "languages_a_shard": [min(held), max(held)], "draw_s": round(drawn_s, 1), "cut_s": round(cut_s, 1),
        "peak_rss_mb": {"before": round(before), "after": round(peak)}, "bytes_a_passage": round((peak - before) * 1e6 / passages, 1),  # noqa: E501
    }  # fmt: skip


def memory_mb(name: str) -> float:
    """VmRSS, resident now, or VmHWM, resident at most so far."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=float, nargs="+", default=[1e6, 1e7, 1e8])
    parser.add_argument("--queries", type=int, default=2000, help="random steps that are timed")
    parser.add_argument("--one", choices=("64", "1024", "layout"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        n = int(args.groups[0])
        done = simulate_layout(n) if args.one == "layout" else simulate_plan(n, int(args.one), args.queries)
        return print(json.dumps(done))
    for n in args.groups:
        for one in ("64", "1024", "layout"):
            command = [sys.executable, __file__, "--one", one, "--groups", str(n), "--queries", str(args.queries)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            print(done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
