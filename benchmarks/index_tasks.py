"""A distributed IVF build beside the monolith, at two million vectors: the same answers, seconds, and memory of each
task.

    python benchmarks/index_tasks.py --passages 2000000 --shards 8

The quantizer is trained once on a sample; Ray tasks then add to shards in parallel, as `hybrid-ir index` does; the
monolith is one index of all vectors, added in one process with the same quantizer. Vectors are those of
index_size.py. How many queries get the same passages in the same order is printed, and the largest difference
between the scores of the two.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from index_size import LANGUAGES, D, clusters, draw, make_fragments

from hybrid_ir.cluster.ray_cluster import ray_session
from hybrid_ir.config.loading import parse_experiment
from hybrid_ir.index.codec import default_codec, train_codec
from hybrid_ir.index.fragments import Fragments
from hybrid_ir.index.query import ShardQuery, depth, merge
from hybrid_ir.index.ray_stages import write_shards
from hybrid_ir.index.searching.exact import BLOCK, exact_scores
from hybrid_ir.index.shard import Shard
from hybrid_ir.index.writing import cut_shards, make_manifest, open_shards

K, NPROBE = 10, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=2_000_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--actors", type=int, default=2, help="tasks at a time")
    parser.add_argument("--queries", type=int, default=500)
    args = parser.parse_args()
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "index"
        fragments = make_fragments(folder / ".build" / "fragments", args.passages)
        codec = default_codec(args.passages, 1)
        start = time.perf_counter()
        trained = train_codec(codec, fragments, D, seed=0)
        empty = faiss.serialize_index(trained)
        seconds["train"] = time.perf_counter() - start

        settings = parse_experiment({"index": {"actors": args.actors}}, "").index
        names = [f"{n:03d}" for n in range(args.shards)]
        parts = cut_shards(fragments.row_languages(), LANGUAGES, args.shards, "language", 0)
        with ray_session(verbose=False):
            start = time.perf_counter()
            entries = write_shards(
                folder, fragments, names, parts, 0, trained, codec, settings, lambda what, done: None
            )
            seconds["shards, by tasks"] = time.perf_counter() - start
        markers = (json.loads((folder / ".build" / f"shard-{n}.json").read_text(encoding="utf-8")) for n in names)
        peaks = [marker["peak_memory_mb"] for marker in markers]

        start = time.perf_counter()
        monolith = faiss.deserialize_index(empty)
        for begin in range(0, args.passages, BLOCK):
            monolith.add(fragments.vectors(np.arange(begin, min(begin + BLOCK, args.passages))))
        seconds["monolith"] = time.perf_counter() - start

        space = {"id": "0" * 16, "dimension": D, "max_tokens": 0, "prefixes": {}, "parts": {}}
        manifest = make_manifest(folder, space=space, probes=np.zeros((0, D)), codec=codec, sharding="language",
                                 shards=entries, keys=(), rejected={}, settings={})  # fmt: skip
        shards = open_shards(folder, manifest, checksums=False)
        queries = draw(clusters(), args.queries, np.random.default_rng(7))
        for shard in shards:
            shard.totals = replace(shard.totals, nprobe=NPROBE)
        monolith.nprobe = NPROBE
        same, furthest = compare(shards, monolith, fragments, queries)
    print(json.dumps({
        "passages": args.passages, "codec": codec, "nprobe": NPROBE, "shards": args.shards,
        "seconds": {k: round(v, 1) for k, v in seconds.items()},
        "task_peak_mb": {"largest": max(peaks), "smallest": min(peaks)}, "rows_a_shard": [len(p) for p in parts],
        "queries": args.queries, "same_answers": same, "largest_difference_of_a_score": furthest,
    }))  # fmt: skip


def compare(shards: list[Shard], monolith: Any, fragments: Fragments, queries: np.ndarray) -> tuple[int, float]:
    """How many queries get the ten passages of the monolith in its order, and the largest difference of a score.

    As the service does, the monolith's best by codes are scored again from float16 vectors; ties go to the lower id.
    """
    found = [shard.search(queries, [ShardQuery(K)] * len(queries)) for shard in shards]
    code_scores, ids = monolith.search(queries, depth(K) + 32)
    same, furthest = 0, 0.0
    for n, query in enumerate(queries):
        kept = ids[n][np.lexsort((ids[n], -code_scores[n]))][: depth(K)]
        scores = exact_scores(query, fragments.vectors(kept).astype(np.float16))
        best = np.lexsort((kept, -scores))[:K]
        ours = merge([f[n] for f in found], K, lossy=True)
        same += [hit.global_id for hit in ours] == kept[best].tolist()
        furthest = max([furthest, *(abs(h.score - s) for h, s in zip(ours, scores[best], strict=True))])
    return same, float(furthest)


if __name__ == "__main__":
    main()
