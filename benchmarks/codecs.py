"""Which codec of an index wins: recall@10 of exact search, against time, against bytes.

python benchmarks/codecs.py --passages 200000 --codecs IVF1024,SQ8 IVF1024,RaBitQ4 IVF1024,PQ192x4fs --out codecs

Each codec is built into one shard, as `hybrid-ir index` builds it, and searched with every `nprobe` and every number
of candidates a hit (`index.candidates`). Vectors are made up (those of `index_size.py`), or with `--vectors` the rows
of an .npy file; queries are 256 that the index does not hold. Times are medians of batches of 32, and bytes are those
of the codes, to which 2 a dimension come for the float16 vectors that candidates are scored from. `codecs.json` has
every figure. `codecs.png` shows of each codec the searches that no other search of it beats in both recall and time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from index_size import FRAGMENT_ROWS, LANGUAGES, clusters, draw, make_fragments
from search_cost import build

from hybrid_ir.index.codec import train_codec
from hybrid_ir.index.fragments import Fragments, save_array
from hybrid_ir.index.passages import IndexedPassage, write_passages
from hybrid_ir.index.query import ShardQuery, merge
from hybrid_ir.index.shard import Shard

K = 10
QUERIES, BATCH = 256, 32


def given_fragments(folder: Path, vectors: np.ndarray) -> Fragments:
    """The vectors as passages of one language."""
    counts = []
    for start in range(0, len(vectors), FRAGMENT_ROWS):
        part = vectors[start : start + FRAGMENT_ROWS]
        home = folder / f"{len(counts):05d}"
        home.mkdir(parents=True)
        passages = (IndexedPassage(f"doc-{start + n}", f"passage {start + n}", "en") for n in range(len(part)))
        write_passages(home / "passages.arrow", passages, ())
        np.save(home / "languages.npy", np.full(len(part), LANGUAGES.index("en"), np.int16))
        save_array(home / "vectors.npy", part)
        counts.append(len(part))
    return Fragments(folder, tuple(counts), LANGUAGES, (), {})


def measure(shard: Shard, queries: np.ndarray, truth: list[set[int]], rounds: int) -> tuple[float, float]:
    """Recall@10, and the microseconds that a query takes in a batch."""
    batches = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
    asked = [ShardQuery(K)] * BATCH
    found: list[set[int]] = []
    times: list[float] = []
    for number in range(rounds):
        for batch in batches:
            start = time.perf_counter()
            answers = shard.search(batch, asked[: len(batch)])
            hits = [merge([one], K, True, None, shard.totals.candidates) for one in answers]
            times.append(1e6 * (time.perf_counter() - start) / len(batch))
            if not number:
                found += [{hit.global_id for hit in one} for one in hits]
    recall = statistics.mean(len(a & b) / K for a, b in zip(found, truth, strict=True))
    return recall, statistics.median(times)


def front(searches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that no other beats in both recall and time, by recall."""
    kept: list[dict[str, Any]] = []
    for one in sorted(searches, key=lambda s: (-s["recall"], s["us_a_query"])):
        if not kept or one["us_a_query"] < kept[-1]["us_a_query"]:
            kept.append(one)
    return kept[::-1]


def plot(results: list[dict[str, Any]], title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    for result in results:
        line = front(result["searches"])
        label = f"{result['codec']}: {result['bytes_a_vector']} bytes"
        # 0.1 % that is not found, then 0.01 %: near 1 recall is told apart by what is missing.
        missing = [max(1 - s["recall"], 1e-4) for s in line]
        axes.plot(missing, [1e6 / s["us_a_query"] for s in line], marker="o", markersize=4, label=label)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_yscale("log")
    axes.set_xlabel(f"share of the right {K} passages that is not found (better to the right)")
    axes.set_ylabel("queries a second, batches of 32, one thread")
    axes.grid(visible=True, which="both", alpha=0.3)
    figure.legend(title="codes of a vector", loc="outside right upper")
    axes.set_title(title)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--vectors", type=Path, help="an .npy file; its last 256 rows are the queries")
    parser.add_argument("--codecs", nargs="+", default=["IVF1024,SQ8", "IVF1024,RaBitQ4", "IVF1024,PQ192x4fs"])
    parser.add_argument("--nprobe", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("codecs"))
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.vectors:
            vectors = np.load(args.vectors).astype(np.float32)
            vectors, queries = vectors[:-QUERIES], vectors[-QUERIES:]
            fragments = given_fragments(folder / "fragments", vectors)
        else:
            queries = draw(clusters(), QUERIES, np.random.default_rng(7))
            fragments = make_fragments(folder / "fragments", args.passages)
        dimension = queries.shape[1]
        truth: list[set[int]] = []
        for codec in args.codecs:
            start = time.perf_counter()
            trained = train_codec(codec, fragments, dimension, seed=0)
            train_s, start = time.perf_counter() - start, time.perf_counter()
            place = folder / codec.replace(",", "-")
            (shard,) = build(place, fragments, faiss.serialize_index(trained), codec, 1, max(args.nprobe))
            shard_s = time.perf_counter() - start
            truth = truth or [set(found.ids.tolist()) for found in shard.scan(queries, K, None, ())]
            faiss.omp_set_num_threads(args.threads)  # training takes them all
            size = (place / "shards" / shard.entry.name / "vectors.faiss").stat().st_size
            result = {"codec": codec, "bytes_a_vector": round(size / fragments.rows), "train_s": round(train_s, 1),
                      "shard_s": round(shard_s, 1), "searches": []}  # fmt: skip
            totals = shard.totals
            for nprobe in args.nprobe:
                for candidates in args.candidates:
                    shard.totals = replace(totals, nprobe=nprobe, candidates=candidates)
                    recall, microseconds = measure(shard, queries, truth, args.rounds)
                    one = {"nprobe": nprobe, "candidates": candidates}
                    result["searches"].append(one | {"recall": round(recall, 4), "us_a_query": round(microseconds, 1)})
            results.append(result)
            print({name: value for name, value in result.items() if name != "searches"})
            for one in front(result["searches"]):
                print("   ", one, flush=True)
    rows = f"{fragments.rows:,} vectors of {dimension} dimensions, {'given' if args.vectors else 'made up'}"
    content = {"passages": fragments.rows, "dimension": dimension, "threads": args.threads, "codecs": results}
    args.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    plot(results, rows, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
