"""What writing an index costs beside a hand-written FAISS loop over the same vectors.

python benchmarks/index_build.py --folder F --passages 200000 --codec IVF1024,SQ8

Both start from the same fragments and the same trained codec, and write one shard to disk: the codes, the float16
vectors that candidates are scored from, the ids, and the passages. Ours is `write_one_shard`, which also puts passages
of one language together and takes the checksum of each file. The loop adds fragment by fragment in the order they lie
in, and writes the same four files with FAISS, numpy and pyarrow; without passages it is the loop that one finds in a
tutorial. They run in turn, and figures are medians of the rounds. Training is the same call of FAISS on either side and
is not timed. `--folder` keeps fragments and codec for the next run; `search_cost.py` and `codecs.py` share it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from index_size import LANGUAGES, D
from search_cost import fragments_of

from hybrid_ir.index.codec import train_codec
from hybrid_ir.index.fragments import Fragments
from hybrid_ir.index.writing import cut_shards, write_one_shard


def ours(fragments: Fragments, empty: np.ndarray, codec: str, out: Path) -> None:
    (ids,) = cut_shards(fragments.row_languages(), LANGUAGES, 1, "language", 0)
    write_one_shard(out, "000", ids, 0, fragments, faiss.deserialize_index(empty), codec, ())


def by_hand(fragments: Fragments, empty: np.ndarray, out: Path, *, passages: bool) -> None:
    out.mkdir(parents=True)
    index = faiss.deserialize_index(empty)
    halves = np.lib.format.open_memmap(out / "halves.npy", "w+", np.float16, (fragments.rows, D))
    tables, start = [], 0
    for number, count in enumerate(fragments.counts):
        vectors = np.load(fragments.path(number) / "vectors.npy")
        index.add(vectors)
        halves[start : start + count] = vectors
        if passages:
            with pa.memory_map(str(fragments.path(number) / "passages.arrow")) as file:
                tables += pa.ipc.open_file(file).read_all().to_batches()
        start += count
    halves.flush()
    np.save(out / "ids.npy", np.arange(fragments.rows))
    faiss.write_index(index, str(out / "codes.faiss"))
    if passages:
        with pa.ipc.new_file(str(out / "passages.arrow"), tables[0].schema) as writer:
            for batch in tables:
                writer.write_batch(batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--codec", default="IVF1024,SQ8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    fragments = fragments_of(args.folder, args.passages)
    trained = args.folder / f"{args.codec}.faiss"
    if not trained.exists():
        faiss.write_index(train_codec(args.codec, fragments, D, seed=0), str(trained))
    empty = faiss.serialize_index(faiss.read_index(str(trained)))
    faiss.omp_set_num_threads(args.threads)
    out = args.folder / "built"
    sides: dict[str, Callable[[], None]] = {
        "ours": lambda: ours(fragments, empty, args.codec, out),
        "by hand": lambda: by_hand(fragments, empty, out, passages=True),
        "by hand, no passages": lambda: by_hand(fragments, empty, out, passages=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, build in sides.items():
            shutil.rmtree(out, ignore_errors=True)
            start = time.perf_counter()
            build()
            seconds[name].append(time.perf_counter() - start)
    shutil.rmtree(out, ignore_errors=True)
    print(f"{fragments.rows:,} passages, {args.codec}, threads={args.threads}, rounds={args.rounds}; seconds\n")
    print(f"| {' | '.join(sides)} | ours over by hand |\n|{'---|' * (len(sides) + 1)}")
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"| {' | '.join(f'{s:.2f}' for s in middle.values())} | {middle['ours'] / middle['by hand']:.2f} |")


if __name__ == "__main__":
    main()
