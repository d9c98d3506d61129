"""What an index costs as it grows: build time, bytes, recall by language, memory of two replicas, queries/s beside
raw FAISS.

python benchmarks/index_size.py --passages 10000 100000 1000000

Vectors are synthetic (clustered, unit length, 384 dimensions), in ten languages of one of which there is 0.1 %; all
stages but the encoding are the project's own, in one process. Queries are vectors that the index does not hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np

from hybrid_ir.index.codec import default_codec, train_codec
from hybrid_ir.index.folder import read_manifest
from hybrid_ir.index.fragments import FRAGMENT_ROWS, Fragments, save_array
from hybrid_ir.index.passage_table import write_passages
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.query import ShardQuery, is_flat, merge
from hybrid_ir.index.recall import recall_gate
from hybrid_ir.index.shard import Shard
from hybrid_ir.index.writing import cut_shards, make_manifest, open_shards, publish, write_one_shard

D = 384
LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "sw")
SHARES = (0.1, 0.1, 0.05, 0.349, 0.1, 0.1, 0.1, 0.05, 0.05, 0.001)


def clusters() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2000, D)).astype(np.float32)


def draw(centres: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, D) unit vectors around the centres, spread so that neighbours of several clusters mix."""
    vectors = centres[rng.integers(len(centres), size=count)] + rng.normal(size=(count, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_fragments(folder: Path, count: int) -> Fragments:
    rng, centres = np.random.default_rng(0), clusters()
    counts = []
    for start in range(0, count, FRAGMENT_ROWS):
        rows = min(FRAGMENT_ROWS, count - start)
        home = folder / f"{len(counts):05d}"
        home.mkdir(parents=True)
        languages = rng.choice(len(LANGUAGES), size=rows, p=SHARES).astype(np.int16)
        texts = (
            IndexedPassage(f"doc-{start + n}", f"passage number {start + n} " * 4, LANGUAGES[x])
            for n, x in enumerate(languages)
        )
        write_passages(home / "passages.arrow", texts, ())
        np.save(home / "languages.npy", languages)
        save_array(home / "vectors.npy", draw(centres, rows, rng))
        counts.append(rows)
    return Fragments(folder, tuple(counts), LANGUAGES, (), {})


def build(folder: Path, count: int, shards: int) -> dict[str, float]:
    """Seconds of each stage after encoding."""
    seconds: dict[str, float] = {}
    fragments = make_fragments(folder / "fragments", count)
    start = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        seconds[name], start = time.perf_counter() - start, time.perf_counter()

    codec = default_codec(count, shards)
    trained = train_codec(codec, fragments, D, seed=0)
    empty = faiss.serialize_index(trained)
    lap("train")
    parts = cut_shards(fragments.row_languages(), LANGUAGES, shards, "language", 0)
    entries = [
        write_one_shard(folder, f"{n:03d}", part, 0, fragments, faiss.deserialize_index(empty), codec, ())
        for n, part in enumerate(parts)
    ]
    lap("shards")
    space = {"id": "0" * 16, "dimension": D, "max_tokens": 0, "prefixes": {}, "parts": {}}
    parts_of = {"space": space, "probes": np.zeros((0, D)), "codec": codec, "sharding": "language", "shards": entries,
                "keys": (), "rejected": {}, "settings": {}}  # fmt: skip
    draft = make_manifest(folder, **parts_of)
    nprobe, recall = recall_gate(open_shards(folder, draft, checksums=False), target=0.98, sample=50, seed=0)
    lap("recall gate")
    publish(folder, make_manifest(folder, **parts_of, nprobe=nprobe, recall=recall))
    return seconds


def answer(shards: list[Shard], queries: np.ndarray, asked: list[ShardQuery]) -> list[set[int]]:
    lossy = not is_flat(shards[0].totals.codec)
    found = [shard.search(queries, asked) for shard in shards]
    return [{h.global_id for h in merge([f[i] for f in found], q.k, lossy)} for i, q in enumerate(asked)]


def recall_of_queries(shards: list[Shard], queries: np.ndarray) -> float:
    """Recall@10 of exact search, for queries that the index does not hold."""
    got = answer(shards, queries, [ShardQuery(10)] * len(queries))
    parts = [shard.scan(queries, 10, None, None) for shard in shards]
    truth = [{h.global_id for h in merge([p[i] for p in parts], 10, lossy=False)} for i in range(len(queries))]
    return float(np.mean([len(g & t) / 10 for g, t in zip(got, truth, strict=True)]))


def speed(folder: Path, shards: list[Shard], queries: np.ndarray, threads: int) -> tuple[float, float]:
    """Queries/s of ours and of raw FAISS over one index of all vectors, batches of 32, alternating; medians of five."""
    faiss.omp_set_num_threads(threads)
    if is_flat(shards[0].totals.codec):
        raw = faiss.IndexFlatIP(D)
        for shard in shards:
            raw.add(np.ascontiguousarray(shard.vectors))
    else:  # not mapped: FAISS merges only what it owns
        raw, *others = (faiss.read_index(str(folder / "shards" / s.entry.name / "vectors.faiss")) for s in shards)
        for other in others:
            raw.merge_from(other, raw.ntotal)
        raw.nprobe = shards[0].totals.nprobe
    ours, theirs = [], []
    batches = [queries[i : i + 32] for i in range(0, len(queries), 32)]
    for _ in range(5):
        start = time.perf_counter()
        for batch in batches:
            answer(shards, batch, [ShardQuery(10)] * len(batch))
        ours.append(len(queries) / (time.perf_counter() - start))
        start = time.perf_counter()
        for batch in batches:
            raw.search(batch, 10)
        theirs.append(len(queries) / (time.perf_counter() - start))
    return statistics.median(ours), statistics.median(theirs)


def memory(folder: Path, replicas: int) -> dict[str, float]:
    """MB of `replicas` processes that have every shard open and have searched: each alone, and all together with
    what they share counted once (PSS)."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import numpy as np; from pathlib import Path; import index_size as b\n"  # noqa: E501
        "m = b.read_manifest(sys.argv[1]); s = b.open_shards(Path(sys.argv[1]), m)\n"
        "q = b.draw(b.clusters(), 512, np.random.default_rng(9)); b.answer(s, q, [b.ShardQuery(10)] * 512)\n"
        "print('up', flush=True); sys.stdin.read()"
    )
    here = str(Path(__file__).parent)
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(folder), here], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(replicas)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
        rolls = [dict(_smaps(process.pid)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return {"rss": max(r["Rss"] for r in rolls), "pss": sum(r["Pss"] for r in rolls)}


def _smaps(pid: int) -> Iterator[tuple[str, float]]:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        yield name, int(value.split()[0]) / 1024


def one(count: int, shards: int, threads: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "index"
        folder.mkdir()
        seconds = build(folder, count, shards)
        manifest = read_manifest(folder)
        opened = open_shards(folder, manifest)
        queries = draw(clusters(), 512, np.random.default_rng(7))
        ours, raw = speed(folder, opened, queries, threads)
        size = sum(file.bytes for shard in manifest.shards for file in shard.files.values())
        codes = sum((folder / "shards" / s.name / "vectors.faiss").stat().st_size for s in manifest.shards)
        lowest = {kind: min(manifest.recall[kind].items(), key=lambda kv: kv[1]) for kind in ("unfiltered", "filtered")}
        return {
            "passages": count, "codec": manifest.codec, "nprobe": manifest.nprobe,
            "build_s": {k: round(v, 1) for k, v in seconds.items()},
            "bytes_a_vector": round(codes / count), "bytes_a_passage": round(size / count),
            "recall_lowest": lowest, "recall_sw": manifest.recall["unfiltered"]["sw"],
            "recall_new_queries": round(recall_of_queries(opened, queries[:200]), 4),
            "queries_per_s": round(ours), "raw_faiss": round(raw), "ratio": round(ours / raw, 2),
            "replica_rss_mb": round((m := memory(folder, 2))["rss"]), "two_replicas_pss_mb": round(m["pss"]),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return print(json.dumps(one(args.one, args.shards, args.threads)))
    for count in args.passages:  # each in a process of its own, so that no size inherits memory
        command = [
            sys.executable,
            __file__,
            "--one",
            str(count),
            "--shards",
            str(args.shards),
            "--threads",
            str(args.threads),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        print(done.stdout.strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
