"""What ranking costs that evaluation does: queries x passages x dimensions a second, and what a size would take.

python benchmarks/ranking.py --queries 2048 --passages 131072

`rank_passages` ranks random unit vectors that are there already, so nothing is encoded. The time of the matrix products
alone, by the same numpy on the same blocks, is beside it. `--of` says on paper what so many queries against so many
passages would take, and `peak_mb` is the memory that the process had at its peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from hybrid_ir.evaluation.ranking import CHUNK, rank_passages
from hybrid_ir.types import Passage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--passages", type=int, default=131_072)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--of", type=int, nargs=2, default=[350_000, 350_000], metavar=("QUERIES", "PASSAGES"))
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    queries, chunk = (unit(rng, rows, args.dimension) for rows in (args.queries, CHUNK))
    order = iter(rng.integers(args.dimension, size=args.passages))

    def encode(texts: list[str], languages: object) -> np.ndarray:
        # Another rotation of the dimensions each time: other vectors, at next to no cost.
        return np.roll(chunk[: len(texts)], int(next(order)), axis=1)

    start = time.perf_counter()
    passages = (Passage(f"doc-{n}", "") for n in range(args.passages))
    _, counted = rank_passages(queries, passages, encode, depth=args.depth)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    for first in range(0, args.queries, 1024):
        np.matmul(queries[first : first + 1024], chunk.T)
    products = (time.perf_counter() - start) * args.passages / CHUNK
    pairs = args.queries * counted
    paper = args.of[0] * args.of[1] / pairs
    print(json.dumps({
        "queries": args.queries, "passages": counted, "dimension": args.dimension, "depth": args.depth,
        "seconds": round(seconds, 2), "products_alone_s": round(products, 2),
        "multiplications_a_second": float(f"{pairs * args.dimension / seconds:.3g}"),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "on_paper": {"queries": args.of[0], "passages": args.of[1], "minutes": round(seconds * paper / 60, 1)},
    }))  # fmt: skip


def unit(rng: np.random.Generator, rows: int, dimension: int) -> np.ndarray:
    vectors = rng.normal(size=(rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
