"""What a search costs beside bare FAISS over the same vectors: a query alone, and 32 together.

python benchmarks/search_cost.py --passages 200000 --shards 1 2 4 --threads 1

Three kinds of search. `Flat` is beside `IndexFlatIP`, and an IVF beside that IVF over all vectors, twice: bare, which
returns the codec's scores, and with `IndexRefine`, which scores the best 40 again from float16 vectors as ours does. A
filter that is scanned, of an index with the IVF, is beside `IndexScalarQuantizer` over those vectors in float16.
`--kinds` chooses among `flat`, `ivf` and `scan`.

The shards stand in this process and are asked one after the other, as with `serve.placement=local`. `--times 10` adds a
simulation of ten times as many passages: the same index ten times, where FAISS asks each and merges the answers, and
ours has ten times as many shards. Vectors are those of `index_size.py`: made up, in 2000 clusters that mix. Queries are
vectors that the index does not hold, and none is asked again, for an index keeps the nearest lists of the last batches.
Every figure is the median of all rounds, in microseconds for a whole batch; in a round each side answers the
same batches in turn. `--threads` are FAISS's, and ours. What is built stays in `--folder`, if one is given, for the
next run. With --json the last line has the figures: kind -> batch size -> side -> microseconds.
"""

from __future__ import annotations

import argparse
import json
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
from hybrid_ir.index.folder import read_manifest
from hybrid_ir.index.fragments import Fragments
from hybrid_ir.index.query import ShardQuery, depth, is_flat, merge
from hybrid_ir.index.shard import Shard
from hybrid_ir.index.writing import count_lists, cut_shards, make_manifest, open_shards, publish, write_one_shard

K = 10
BATCHES = 20
"""Of a round."""
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


def in_turn(index: Any, times: int) -> Search:
    """One index as if it were many, asked one after the other, with FAISS's own merge of their answers."""

    def search(vectors: np.ndarray) -> object:
        scores, rows = zip(*(index.search(vectors, K) for _ in range(times)), strict=True)
        return faiss.merge_knn_results(np.stack(scores), np.stack(rows), keep_max=True)

    return search


def make_index(folder: Path, args: argparse.Namespace, codec: str, shards: int) -> list[Shard]:
    """The index in so many shards; built once a folder."""
    place = folder / f"{codec.replace(',', '-')}-{shards}"
    if not (place / "manifest.json").exists():
        fragments = fragments_of(folder, args.passages)
        trained = folder / f"{codec}.faiss"
        if not trained.exists():
            faiss.write_index(train_codec(codec, fragments, D, seed=0), str(trained))
        build(place, fragments, faiss.serialize_index(faiss.read_index(str(trained))), codec, shards, args.nprobe)
    return open_shards(place, read_manifest(place), checksums=False)


def fragments_of(folder: Path, passages: int) -> Fragments:
    place = folder / "fragments"
    if not place.exists():
        make_fragments(place, passages)
    counts = tuple(len(np.load(home / "languages.npy")) for home in sorted(place.iterdir()))
    return Fragments(place, counts, LANGUAGES, (), {})


def sides(folder: Path, args: argparse.Namespace) -> dict[str, dict[str, Search]]:
    """Kind of search -> whose -> how it is searched; bare FAISS first."""
    made: dict[str, dict[str, Search]] = {}
    if "flat" in args.kinds:
        indices = {count: make_index(folder, args, "Flat", count) for count in args.shards}
        flat: Any = faiss.IndexFlatIP(D)
        for shard in indices[args.shards[0]]:
            flat.add(np.ascontiguousarray(shard.vectors))
        made["Flat"] = {"FAISS": bare(flat)} | {f"{n} shards": ours(s, ShardQuery(K)) for n, s in indices.items()}
    if not {"ivf", "scan"} & set(args.kinds):
        return made
    indices = {count: make_index(folder, args, args.codec, count) for count in args.shards}
    first = indices[args.shards[0]]
    if "ivf" in args.kinds:
        home = folder / f"{args.codec.replace(',', '-')}-{args.shards[0]}" / "shards"
        ivf: Any
        ivf, *others = (faiss.read_index(str(home / shard.entry.name / "vectors.faiss")) for shard in first)
        for other in others:
            ivf.merge_from(other, ivf.ntotal)
        ivf.nprobe = args.nprobe
        halves = in_float16()
        for shard in first:
            halves.add(np.asarray(shard.vectors, dtype=np.float32))
        refined: Any = faiss.IndexRefine(ivf, halves)
        refined.k_factor = depth(K) / K
        made[args.codec] = {"FAISS": bare(ivf), "FAISS, scored again": bare(refined)}
        made[args.codec] |= {f"{n} shards": ours(s, ShardQuery(K)) for n, s in indices.items()}
        if args.times > 1:
            made[f"{args.codec}, {args.times} times"] = {
                "FAISS, scored again": in_turn(refined, args.times),
                f"{args.times * len(first)} shards": ours(first * args.times, ShardQuery(K)),
            }
    if "scan" in args.kinds:
        scanned = in_float16()
        for shard in first:
            start, end = shard.entry.languages.get(SCANNED, (0, 0))
            scanned.add(np.asarray(shard.vectors[start:end], dtype=np.float32))
        made[f"scan of {scanned.ntotal:,} in float16"] = {"FAISS": bare(scanned)} | {
            f"{n} shards": ours(s, ShardQuery(K, (SCANNED,))) for n, s in indices.items()
        }
    return made


def in_float16() -> Any:
    return faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def medians(searches: dict[str, Search], size: int, rounds: int) -> dict[str, float]:
    """Microseconds that each side takes for a batch of so many queries. No batch is asked twice of one side."""
    times: dict[str, list[float]] = {name: [] for name in searches}
    centres, rng = clusters(), np.random.default_rng(7)
    for number in range(rounds + 1):
        batches = np.split(draw(centres, BATCHES * size, rng), BATCHES)
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
    parser.add_argument("--kinds", nargs="+", default=["flat", "ivf", "scan"], choices=["flat", "ivf", "scan"])
    parser.add_argument("--times", type=int, default=1, help="of the index as one larger")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true", help="the figures in a last line")
    args = parser.parse_args()
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        made = sides(args.folder or Path(name), args)
        faiss.omp_set_num_threads(args.threads)  # training takes them all
        print(f"{args.passages:,} passages, k={K}, nprobe={args.nprobe}, threads={args.threads}; microseconds a batch")
        figures: dict[str, dict[int, dict[str, float]]] = {}
        for kind, searches in made.items():
            figures[kind] = {}
            print(f"\n| {kind}: queries | {' | '.join(searches)} |\n|---|{'---|' * len(searches)}")
            for size in (1, 32):
                found = figures[kind][size] = medians(searches, size, args.rounds)
                print(f"| {size} | {' | '.join(f'{found[c]:.0f}' for c in searches)} |", flush=True)
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
