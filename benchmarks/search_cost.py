"""What a search costs beside bare FAISS over the same vectors: a query alone, and 32 together.

python benchmarks/search_cost.py --passages 200000 --shards 1 2 4 --threads 1

Three kinds of search. `Flat` is beside `IndexFlatIP`, and an IVF with SQ8 beside that IVF over all vectors. A filter
that is scanned, of an index with the IVF, is beside `IndexScalarQuantizer` over those vectors in float16. The shards
stand in this process and are asked one after the other, as with `serve.placement=local`. Vectors are those of
`index_size.py`. Queries are vectors that the index does not hold. Every figure is the median of all rounds, in
microseconds for a whole batch; in a round each side answers the same batches in turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from index_size import LANGUAGES, D, clusters, draw, make_fragments

from hybrid_ir.index.codec import train_codec
from hybrid_ir.index.fragments import Fragments
from hybrid_ir.index.query import ShardQuery, is_flat, merge
from hybrid_ir.index.shard import Shard
from hybrid_ir.index.writing import count_lists, cut_shards, make_manifest, open_shards, publish, write_one_shard

K = 10
SCANNED = "el"
"""The language that the filter leaves. A filter that leaves fewer than 20 thousand passages is scanned."""

Search = Callable[[np.ndarray], object]


def build(folder: Path, fragments: Fragments, empty: np.ndarray, codec: str, shards: int, nprobe: int) -> list[Shard]:
    folder.mkdir()
    parts = cut_shards(fragments.row_languages(), LANGUAGES, shards, "language", 0)
    entries = [
        write_one_shard(folder, f"{n:03d}", part, 0, fragments, faiss.deserialize_index(empty), codec, ())
        for n, part in enumerate(parts)
    ]
    space = {"id": "0" * 16, "dimension": D, "max_tokens": 0, "prefixes": {}, "parts": {}}
    manifest = make_manifest(
        folder, space=space, probes=np.zeros((0, D)), codec=codec, sharding="language", shards=entries, keys=(),
        rejected={}, settings={}, nprobe=0 if is_flat(codec) else nprobe,
    )  # fmt: skip
    files = count_lists(folder, open_shards(folder, manifest, checksums=False))
    manifest = publish(folder, manifest.model_copy(update={"files": {**manifest.files, **files}}))
    return open_shards(folder, manifest, checksums=False)


def ours(shards: list[Shard], query: ShardQuery) -> Search:
    lossy = not is_flat(shards[0].totals.codec)

    def search(vectors: np.ndarray) -> object:
        asked = [query] * len(vectors)
        found = [shard.search(vectors, asked) for shard in shards if _has(shard, query)]
        return [merge([part[i] for part in found], query.k, lossy) for i in range(len(vectors))]

    return search


def _has(shard: Shard, query: ShardQuery) -> bool:
    """A service asks only the shards that have one of the languages."""
    return query.languages is None or not shard.entry.languages.keys().isdisjoint(query.languages)


def bare(index: Any) -> Search:
    return lambda vectors: index.search(vectors, K)


def sides(folder: Path, args: argparse.Namespace) -> dict[str, dict[str, Search]]:
    """Kind of search -> whose -> how it is searched; bare FAISS first."""
    fragments = make_fragments(folder / "fragments", args.passages)
    vectors = fragments.vectors(np.arange(fragments.rows))
    trained = train_codec(args.codec, fragments, D, seed=0)
    flat: Any = faiss.IndexFlatIP(D)
    ivf: Any = faiss.clone_index(trained)
    flat.add(vectors)
    ivf.add(vectors)
    ivf.nprobe = args.nprobe
    scanned: Any = faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    scanned.add(vectors[fragments.row_languages() == LANGUAGES.index(SCANNED)])
    names = ("Flat", args.codec, f"scan of {scanned.ntotal:,} in float16")
    made = {name: {"FAISS": bare(index)} for name, index in zip(names, (flat, ivf, scanned), strict=True)}
    for codec, empty in (("Flat", faiss.IndexFlatIP(D)), (args.codec, trained)):
        for count in args.shards:
            place = folder / f"{len(codec)}-{count}"
            shards = build(place, fragments, faiss.serialize_index(empty), codec, count, args.nprobe)
            made[codec][f"{count} shards"] = ours(shards, ShardQuery(K))
            if codec != "Flat":
                made[names[2]][f"{count} shards"] = ours(shards, ShardQuery(K, (SCANNED,)))
    return made


def medians(searches: dict[str, Search], batches: list[np.ndarray], rounds: int) -> dict[str, float]:
    """Microseconds that each side takes for a batch."""
    times: dict[str, list[float]] = {name: [] for name in searches}
    for number in range(rounds + 1):
        for name, search in searches.items():
            for batch in batches:
                start = time.perf_counter()
                search(batch)
                if number:  # the first round warms up
                    times[name].append(1e6 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--codec", default="IVF1024,SQ8")
    parser.add_argument("--nprobe", type=int, default=16)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    queries = draw(clusters(), 160, np.random.default_rng(7))
    with tempfile.TemporaryDirectory() as name:
        made = sides(Path(name), args)
        faiss.omp_set_num_threads(args.threads)  # training takes them all
        print(f"{args.passages:,} passages, k={K}, nprobe={args.nprobe}, threads={args.threads}; microseconds a batch")
        columns = list(next(iter(made.values())))
        print(f"| search | queries | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
        for kind, searches in made.items():
            for size in (1, 32):
                count = 20 if size == 1 else 5
                batches = [queries[i : i + size] for i in range(0, count * size, size)]
                found = medians(searches, batches, args.rounds)
                print(f"| {kind} | {size} | {' | '.join(f'{found[c]:.0f}' for c in columns)} |", flush=True)


if __name__ == "__main__":
    main()
