"""Which codec of an index wins: recall@10 of exact search, against time, against bytes.

python benchmarks/codecs.py --folder F --passages 200000 --out F/codecs --codecs IVF1024,SQ8 IVF1024,PQ192x4fs
python benchmarks/codecs.py --draw small.json large.json --out docs/codecs

Each codec is built into one shard, as `hybrid-ir index` builds it, and searched with every `nprobe` and every number
of candidates a hit (`index.candidates`). Vectors are made up (those of `index_size.py`), or with `--vectors` the rows
of an .npy file; queries are 256 that the index does not hold. Times are medians of batches of 32, and bytes are those
of the codes, to which 2 a dimension come for the float16 vectors that candidates are scored from.

An index that is ours has a flat coarse quantizer. What HNSW in its place would bring is measured with FAISS alone: the
first codec's lists with either, and `IndexRefine` over float16.

What is built stays in `--folder`, for the next run or for other codecs. Codecs of as many lists share one coarse
quantizer, so their recall differs by their codes alone. `OUT.json` has every figure. `--draw` makes a picture of such
files, with the searches of each codec that no other search of it beats in both recall and time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from index_size import FRAGMENT_ROWS, LANGUAGES, clusters, draw
from pictures import COLOURS, INK, calm, save
from search_cost import fragments_of, in_float16, make_index

from hybrid_ir.index.codec import make_codec, stratified_sample, train_codec
from hybrid_ir.index.fragments import Fragments, save_array
from hybrid_ir.index.passage_table import write_passages
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.query import ShardQuery, merge
from hybrid_ir.index.shard import Shard
from hybrid_ir.reports import drawing

K = 10
QUERIES, BATCH = 256, 32

Search = Callable[[np.ndarray], list[set[int]]]


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


def train(folder: Path, codec: str, fragments: Fragments, dimension: int) -> None:
    """Leave the trained codec where `make_index` looks for it."""
    place = folder / f"{codec}.faiss"
    if place.exists():
        return
    index = make_codec(codec, dimension)
    for other in sorted(folder.glob("IVF*.faiss")):
        trained = faiss.read_index(str(other))  # the quantizer ends with it
        quantizer = faiss.downcast_index(trained.quantizer)
        if quantizer.ntotal == index.nlist:
            index.quantizer.add(quantizer.reconstruct_n(0, index.nlist))
            index.train(fragments.vectors(stratified_sample(fragments.row_languages(), 64 * index.nlist, 256, 0)))
            break
    else:
        index = train_codec(codec, fragments, dimension, seed=0)
    faiss.write_index(index, str(place))


def exact(shard: Shard, folder: Path, queries: np.ndarray) -> list[set[int]]:
    """The right answers, computed once a folder."""
    place = folder / "right.json"
    if not place.exists():
        found = [part.ids.tolist() for part in shard.scan(queries, K, None, None)]
        place.write_text(json.dumps(found), encoding="utf-8")
    return [set(ids) for ids in json.loads(place.read_text(encoding="utf-8"))]


def ours(shard: Shard) -> Search:
    asked = [ShardQuery(K)] * BATCH

    def search(batch: np.ndarray) -> list[set[int]]:
        answers = shard.search(batch, asked[: len(batch)])
        hits = [merge([one], K, True, None, shard.totals.candidates) for one in answers]
        return [{hit.global_id for hit in one} for one in hits]

    return search


def bare(index: Any, ids: np.ndarray) -> Search:
    return lambda batch: [set(ids[rows].tolist()) for rows in index.search(batch, K)[1]]


def refined(shard: Shard, place: Path, hnsw: bool) -> tuple[Any, Any, Any]:
    """The IVF of a shard as FAISS reads it, its coarse quantizer, and `IndexRefine` around it."""
    ivf = faiss.read_index(str(place / "shards" / shard.entry.name / "vectors.faiss"))
    coarse = faiss.downcast_index(ivf.quantizer)
    if hnsw:
        graph = faiss.IndexHNSWFlat(ivf.d, 32, faiss.METRIC_INNER_PRODUCT)
        graph.add(coarse.reconstruct_n(0, coarse.ntotal))
        ivf.own_fields, ivf.quantizer, coarse = False, graph, graph
    halves = in_float16()
    for start in range(0, shard.rows, FRAGMENT_ROWS):
        halves.add(np.asarray(shard.vectors[start : start + FRAGMENT_ROWS], dtype=np.float32))
    return ivf, coarse, faiss.IndexRefine(ivf, halves)


def measure(search: Search, queries: np.ndarray, right: list[set[int]], rounds: int, turn: int) -> dict[str, float]:
    """Recall@10, and the microseconds that a query takes in a batch.

    An index keeps the nearest lists of the last batches, so queries are put together anew in each round of each `turn`.
    """
    shares: list[float] = []
    times: list[float] = []
    for number in range(turn * rounds, (turn + 1) * rounds):
        order = np.roll(np.arange(len(queries)), number)
        for start in range(0, len(queries), BATCH):
            members = order[start : start + BATCH]
            batch = queries[members]
            start_s = time.perf_counter()
            sets = search(batch)
            times.append(1e6 * (time.perf_counter() - start_s) / len(batch))
            shares += [len(found & right[n]) / K for found, n in zip(sets, members, strict=True)]
    return {"recall": round(statistics.mean(shares), 4), "us_a_query": round(statistics.median(times), 1)}


def measure_ours(shard: Shard, place: Path, queries: np.ndarray, right: Any, args: Any) -> dict[str, Any]:
    size = (place / "shards" / shard.entry.name / "vectors.faiss").stat().st_size
    totals, searches = shard.totals, []
    for nprobe in args.nprobe:
        for turn, candidates in enumerate(args.candidates):
            shard.totals = replace(totals, nprobe=nprobe, candidates=candidates)
            one = measure(ours(shard), queries, right, args.rounds, turn)
            searches.append({"nprobe": nprobe, "candidates": candidates} | one)
    return {"codec": totals.codec, "bytes_a_vector": round(size / shard.rows), "searches": searches}


def measure_coarse(shard: Shard, place: Path, queries: np.ndarray, right: Any, args: Any) -> list[dict[str, Any]]:
    """FAISS alone, with either coarse quantizer. HNSW looks at twice as many centroids as it visits, 64 at least."""
    size = (place / "shards" / shard.entry.name / "vectors.faiss").stat().st_size
    made = []
    for name, hnsw in (("flat", False), ("HNSW32", True)):
        ivf, coarse, index = refined(shard, place, hnsw)
        searches = []
        for nprobe in args.nprobe:
            ivf.nprobe, index.k_factor = nprobe, 4
            if hnsw:
                coarse.hnsw.efSearch = max(64, 2 * nprobe)
            one = measure(bare(index, shard.ids), queries, right, args.rounds, 0)
            searches.append({"nprobe": nprobe, "candidates": 4} | one)
        label = f"{shard.totals.codec}, FAISS alone, {name}"
        made.append({"codec": label, "bytes_a_vector": round(size / shard.rows), "searches": searches})
    return made


def front(searches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that no other beats in both recall and time, by recall."""
    kept: list[dict[str, Any]] = []
    for one in sorted(searches, key=lambda s: (-s["recall"], s["us_a_query"])):
        if not kept or one["us_a_query"] < kept[-1]["us_a_query"]:
            kept.append(one)
    return kept[::-1]


def picture(files: list[Path], path: Path) -> None:
    """A panel a file: what is not found, by time, with a mark whose area is the bytes of a vector's codes."""
    from matplotlib.figure import Figure

    with drawing():
        figure = Figure(figsize=(5.2 * len(files), 4.2), layout="constrained")
        handles: dict[str, Any] = {}
        colours: dict[str, str] = {}
        for axes, file in zip(figure.subplots(1, len(files), squeeze=False)[0], files, strict=True):
            made = json.loads(file.read_text(encoding="utf-8"))
            title = f"{made['passages']:,} vectors of {made['dimension']} dimensions"
            for result in made["codecs"]:
                line = front(result["searches"])
                name = result["codec"].partition(",")[2]
                colour = colours.setdefault(name.partition(",")[0], COLOURS[len(colours) % len(COLOURS)])
                label = f"{name}: {result['bytes_a_vector']} bytes"
                # 0.1 % that is not found, then 0.01 %: near 1 recall is told apart by what is missing.
                missing, times = [max(1 - s["recall"], 1e-4) for s in line], [s["us_a_query"] for s in line]
                dashes = "--" if "HNSW" in name else ":" if "FAISS" in name else "-"
                (drawn,) = axes.plot(missing, times, dashes, color=colour, linewidth=1, label=label)
                axes.scatter(missing, times, s=result["bytes_a_vector"] / 3, color=colour, alpha=0.55, linewidths=0)
                handles.setdefault(name, drawn)
            calm(axes, title, f"share of the right {K} that is not found", "microseconds a query, batches of 32")
            axes.invert_xaxis()
        lines = list(handles.values())
        names = [line.get_label() for line in lines]
        figure.legend(lines, names, loc="outside lower center", ncols=4, frameon=False, labelcolor=INK)
        save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--vectors", type=Path, help="an .npy file; its last 256 rows are the queries")
    parser.add_argument("--codecs", nargs="+", default=["IVF1024,SQ8", "IVF1024,RaBitQ4", "IVF1024,PQ192x4fs"])
    parser.add_argument("--nprobe", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draw", type=Path, nargs="+", help="JSON files of earlier runs; nothing is measured")
    parser.add_argument("--out", type=Path, default=Path("codecs"))
    args = parser.parse_args()
    if args.draw:
        return picture(args.draw, args.out.with_suffix(".png"))
    if args.folder is None:
        parser.error("--folder is where indexes are built; it is needed but for --draw")
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.vectors:
        vectors = np.load(args.vectors).astype(np.float32)
        vectors, queries = vectors[:-QUERIES], vectors[-QUERIES:]
        if not (args.folder / "fragments").exists():
            given_fragments(args.folder / "fragments", vectors)
    else:
        queries = draw(clusters(), QUERIES, np.random.default_rng(7))
    fragments = fragments_of(args.folder, args.passages)
    args.nprobe, probes = max(args.nprobe), args.nprobe
    results: list[dict[str, Any]] = []
    for codec in args.codecs:
        train(args.folder, codec, fragments, queries.shape[1])
        (shard,) = make_index(args.folder, args, codec, 1)
        right = exact(shard, args.folder, queries)
        faiss.omp_set_num_threads(args.threads)  # training takes them all
        place = args.folder / f"{codec.replace(',', '-')}-1"
        given = argparse.Namespace(**vars(args) | {"nprobe": probes})
        results.append(measure_ours(shard, place, queries, right, given))
        if codec == args.codecs[0]:
            results += measure_coarse(shard, place, queries, right, given)
    for result in results:
        print({name: value for name, value in result.items() if name != "searches"})
        for one in front(result["searches"]):
            print("   ", one, flush=True)
    content = {"passages": fragments.rows, "dimension": queries.shape[1], "threads": args.threads, "codecs": results}
    args.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
