"""How an index' costs grow: with its passages, and with its shards. Curves with their slopes, in one picture.

python benchmarks/growth.py --folder F --out docs/growth

From 10 thousand to a million passages, in one shard: training the codec (IVF with SQ8 and the default number of lists,
about 4 sqrt(passages)), writing the shard, and a query of a batch of 32 that visits 8 lists. Then `--of` passages in 1
to 16 shards in one process: writing all of them, and the same search. A slope is that of a line through the curve in
powers: 1 grows as the passages do, 0.5 as their square root. Vectors are made up (those of `index_size.py`), and
making them is not timed; they stay in `--folder`. Building takes two threads and a search takes one. `OUT.json` has
every figure.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from index_size import D
from pictures import COLOURS, INK, calm, save
from search_cost import build, fragments_of, medians, ours

from hybrid_ir.index.codec import train_codec
from hybrid_ir.index.fragments import Fragments
from hybrid_ir.index.query import ShardQuery
from hybrid_ir.reports import drawing

NPROBE, BATCH, BUILD_THREADS = 8, 32, 2
PARTS = ("train", "write", "search")


def codec_for(passages: int) -> str:
    return f"IVF{2 ** round(np.log2(4 * np.sqrt(passages)))},SQ8"


def measure(folder: Path, fragments: Fragments, trained: Any, shards: int) -> dict[str, float]:
    """Seconds of writing, and microseconds of a query in a batch."""
    place = folder / "growing"
    shutil.rmtree(place, ignore_errors=True)
    faiss.omp_set_num_threads(BUILD_THREADS)
    start = time.perf_counter()
    opened = build(place, fragments, faiss.serialize_index(trained), codec_for(fragments.rows), shards, NPROBE)
    write_s = time.perf_counter() - start
    faiss.omp_set_num_threads(1)
    found = medians({"ours": ours(opened, ShardQuery(10))}, BATCH, 3)
    shutil.rmtree(place)
    return {"write": round(write_s, 3), "search": round(found["ours"] / BATCH, 1)}


def slope(x: list[int], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def curves(rows: list[dict[str, Any]], x: str) -> dict[str, tuple[list[int], list[float]]]:
    return {part: ([row[x] for row in rows], [row[part] for row in rows]) for part in PARTS if part in rows[0]}


def picture(made: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    with drawing():
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        grown = curves(made["passages"], "passages")
        for axes, parts in ((left, PARTS[:2]), (middle, PARTS[2:])):
            for part in parts:
                _line(axes, part, *grown[part])
        for part, (x, y) in curves(made["shards"], "shards").items():
            _line(right, part, x, [each / y[0] for each in y])
        calm(left, "building", "passages", "seconds")
        calm(middle, "searching", "passages", "microseconds a query, batches of 32")
        for axes in (left, middle):
            axes.tick_params(axis="x", rotation=30)
        calm(right, f"{made['of']:,} passages cut into shards", "shards", "times what one shard takes")
        right.set_xticks([row["shards"] for row in made["shards"]], [str(row["shards"]) for row in made["shards"]])
        right.minorticks_off()
        for axes in (left, middle, right):
            axes.legend(frameon=False, labelcolor=INK)
        save(figure, path)


def _line(axes: Any, part: str, x: list[int], y: list[float]) -> None:
    label = f"{part}: slope {slope(x, y):.2f}"
    axes.plot(x, y, marker="o", markersize=4, linewidth=1.3, color=COLOURS[PARTS.index(part)], label=label)


def _write(made: dict[str, Any], out: Path) -> None:
    """After each measurement, so that one which is stopped leaves what it has."""
    print(made["passages"][-1:], made["shards"][-1:], flush=True)
    out.with_suffix(".json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--of", type=int, default=100_000)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--only-vectors", action="store_true", help="make them, and measure nothing")
    parser.add_argument("--out", type=Path, default=Path("growth"))
    parser.add_argument("--draw", type=Path, help="a JSON file of an earlier run; nothing is measured")
    args = parser.parse_args()
    if args.draw:
        return picture(json.loads(args.draw.read_text(encoding="utf-8")), args.out.with_suffix(".png"))
    if args.folder is None:
        parser.error("--folder is where vectors are made; it is needed but for --draw")
    made: dict[str, Any] = {"dimension": D, "nprobe": NPROBE, "of": args.of, "passages": [], "shards": []}
    for passages in sorted({*args.passages, args.of}):
        folder = args.folder / str(passages)
        fragments = fragments_of(folder, passages)
        if args.only_vectors:
            continue
        faiss.omp_set_num_threads(BUILD_THREADS)
        start = time.perf_counter()
        trained = train_codec(codec_for(passages), fragments, D, seed=0)
        train_s = time.perf_counter() - start
        if passages in args.passages:
            row = {"passages": passages, "codec": codec_for(passages), "train": round(train_s, 3)}
            made["passages"].append(row | measure(folder, fragments, trained, 1))
            _write(made, args.out)
        if passages == args.of:
            for shards in args.shards:
                rounds = [measure(folder, fragments, trained, shards) for _ in range(2)]
                middle = {part: statistics.median(each[part] for each in rounds) for part in rounds[0]}
                made["shards"].append({"shards": shards} | middle)
                _write(made, args.out)
    if not args.only_vectors:
        picture(made, args.out.with_suffix(".png"))
    return None


if __name__ == "__main__":
    main()
