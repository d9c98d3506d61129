"""What a filter costs by how many passages pass it, beside bare FAISS with a selector over the same float16 vectors.

    python benchmarks/filters.py --passages 1000000 --threads 2
    OPENBLAS_NUM_THREADS=1 python benchmarks/filters.py --deleted --passages 200000 --threads 1

Passages are made up: random unit vectors, and a whole number below a million and a date as metadata. `first` is what
the first query with a filter waits for the rows that pass, which are kept for the next: for a range of numbers, for a
range of dates, and for one of a hundred values. Then a query, and a batch of 32, find their best 10 among the rows that
pass; FAISS gets its selector ready made. Ours and FAISS's take turns; figures are medians.

With `--deleted`: what deleted rows, drawn at random, cost a scan without a filter, of a Flat index (float32) and of the
float16 vectors beside a lossy codec, in milliseconds of a processor. `compacted` is a scan of the rows that are left,
written anew; the two take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from hybrid_ir.index.filters.form import Filter, read_filter
from hybrid_ir.index.filters.rows import passing
from hybrid_ir.index.passage_table import PassageTable, write_passages
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.searching.exact import exact_top
from hybrid_ir.index.searching.living import Living

K, D, BATCH, RANGE = 10, 384, 32, 1_000_000
SHARES = (0.0001, 0.001, 0.01, 0.1, 0.5, 1.0)
DAYS = 10_000
DELETED = (0, 0.01, 0.1, 0.5)


def made_up(numbers: np.ndarray) -> Iterator[IndexedPassage]:
    days = [datetime.fromtimestamp(86400 * day, UTC).date().isoformat() for day in range(DAYS)]
    for n, number in enumerate(numbers.tolist()):
        yield IndexedPassage(str(n), "text", "en", {"n": number, "at": days[number % DAYS]})


def unit_vectors(rows: int) -> np.ndarray:
    """(rows, D) float16, drawn a hundred thousand at a time."""
    draw, vectors = np.random.default_rng(0), np.empty((rows, D), np.float16)
    for start in range(0, rows, 100_000):
        part = draw.normal(size=(min(100_000, rows - start), D)).astype(np.float32)
        vectors[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def filter_of(share: float) -> Filter:
    return read_filter({"must": [{"key": "n", "range": {"lt": share * RANGE}}]})


def milliseconds(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return 1000 * (clock() - start)


def measure(table: PassageTable, vectors: np.ndarray, rounds: int) -> list[dict[str, float]]:
    bare: Any = faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(vectors), 100_000):
        bare.add(vectors[start : start + 100_000].astype(np.float32))
    draw = np.random.default_rng(1)
    found = []
    for share in SHARES:
        rows = table.where(partial(passing, filter_of(share)))
        bits = np.packbits(np.isin(np.arange(len(vectors)), rows), bitorder="little")
        selector = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(len(vectors), faiss.swig_ptr(bits)))
        row: dict[str, float] = {"share": share, "passing": len(rows)}
        for name, count in (("one", 1), ("batch", BATCH)):
            times: dict[str, list[float]] = {"ours": [], "faiss": []}
            for _ in range(rounds):
                queries = draw.normal(size=(count, D)).astype(np.float32)
                queries /= np.linalg.norm(queries, axis=1, keepdims=True)
                times["ours"].append(milliseconds(partial(exact_top, queries, vectors, rows, K)))
                times["faiss"].append(milliseconds(partial(bare.search, queries, K, params=selector)))
            row |= {f"{name}_{side}_ms": statistics.median(spent) for side, spent in times.items()}
        found.append(row)
        print(json.dumps({key: round(value, 4) for key, value in row.items()}), flush=True)
    return found


def measure_deleted(vectors: np.ndarray, rounds: int) -> None:
    draw = np.random.default_rng(1)
    for kind in (np.float32, np.float16):
        whole = vectors.astype(kind)
        for share in DELETED:
            there = draw.random(len(whole)) >= share
            living, left = Living(there) if share else None, np.ascontiguousarray(whole[there])
            row: dict[str, Any] = {"vectors": np.dtype(kind).name, "deleted": share}
            for name, count in (("one", 1), ("batch", BATCH)):
                times: dict[str, list[float]] = {"deleted": [], "compacted": []}
                for _ in range(rounds):
                    queries = draw.normal(size=(count, D)).astype(np.float32)
                    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
                    scan = partial(exact_top, queries, whole, [(0, len(whole))], K, living)
                    again = partial(exact_top, queries, left, [(0, len(left))], K)
                    times["deleted"].append(milliseconds(scan, time.process_time))
                    times["compacted"].append(milliseconds(again, time.process_time))
                row |= {f"{name}_{side}_ms": round(statistics.median(spent), 2) for side, spent in times.items()}
            print(json.dumps(row), flush=True)


def first_times(table: PassageTable, rounds: int) -> dict[str, float]:
    asked = {
        "number": {"key": "n", "range": {"lt": 1000}},
        "date": {"key": "at", "range": {"lt": "1970-02-01"}},
        "any of 100": {"key": "n", "match": {"any": list(range(100))}},
    }
    return {
        name: statistics.median(
            milliseconds(partial(table.where, partial(passing, read_filter({"must": [condition]}))))
            for _ in range(rounds)
        )
        for name, condition in asked.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--deleted", action="store_true", help="what deleted rows cost, in place of filters")
    given = parser.parse_args()
    faiss.omp_set_num_threads(given.threads)
    if given.deleted:
        measure_deleted(unit_vectors(given.passages), given.rounds)
        return
    numbers = np.random.default_rng(2).integers(RANGE, size=given.passages)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "passages.arrow"
        write_passages(path, made_up(numbers), ["at", "n"])
        table = PassageTable(path)
        first = first_times(table, given.rounds)
        print(json.dumps({"first_ms": {name: round(ms, 1) for name, ms in first.items()}}), flush=True)
        measure(table, unit_vectors(given.passages), given.rounds)


if __name__ == "__main__":
    main()
