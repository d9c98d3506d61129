"""Mining hard negatives, beside `mine_hard_negatives` of sentence-transformers: time and memory of the same work.

    python benchmarks/mining.py --groups 6000 12000 --rounds 3

Every question of one language is ranked with every passage, and the best negative within the first hundred ranks that
scores less than 95 % of the answer is kept. Vectors are random ones of 384 dimensions, computed before: both look them
up by text. Ours includes reading a store and writing the new one. Theirs gets lists and gives a data set in memory.
Each round is a process of its own. Memory is what the process had at most beyond what its imports and vectors take.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

DIMENSIONS = 384


class Vectors:
    """What both take for an encoder: texts that end in the number of their row."""

    device = "cpu"
    prompts: dict = {}  # noqa: RUF012

    def __init__(self, groups: int) -> None:
        random = np.random.default_rng(0)
        self.query = _unit(random.standard_normal((groups, DIMENSIONS), np.float32))
        # The cosine of a question and its answer is about .45: the noise is twice as long as what they share.
        noise = _unit(random.standard_normal((groups, DIMENSIONS), np.float32))
        self.document = _unit(self.query + 2 * noise)

    def __call__(self, texts, *, role: str) -> np.ndarray:
        return getattr(self, role)[[int(text.split()[-1]) for text in texts]]

    def encode_query(self, texts, **_) -> np.ndarray:
        return self(texts, role="query")

    def encode_document(self, texts, **_) -> np.ndarray:
        return self(texts, role="document")

    def get_embedding_dimension(self) -> int:
        return DIMENSIONS

    @staticmethod
    def similarity(a, b):
        import torch

        return torch.as_tensor(a) @ torch.as_tensor(b).T

    @staticmethod
    def similarity_pairwise(a, b):
        import torch

        return (torch.as_tensor(a) * torch.as_tensor(b)).sum(dim=1)


def one(who: str, groups: int, store: str, threads: int) -> None:
    """One round. Prints one JSON line."""
    import datasets
    import torch
    from sentence_transformers.util import mine_hard_negatives

    from hybrid_ir.data import open_store
    from hybrid_ir.mining import Rules, mine_negatives

    torch.set_num_threads(threads)
    vectors = Vectors(groups)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, used = time.perf_counter(), time.process_time()
    if who == "hybrid-ir":
        with tempfile.TemporaryDirectory() as scratch:
            manifest = mine_negatives(open_store(store), f"{scratch}/new", vectors, Rules(), made={})
        found = manifest["mined"]["groups"]["mined"]
    else:
        pairs = datasets.Dataset.from_dict(
            {"q": [f"question {n}" for n in range(groups)], "p": [f"passage {n}" for n in range(groups)]}
        )
        triplets = mine_hard_negatives(
            pairs, vectors, relative_margin=0.05, range_max=100, num_negatives=1, use_faiss=who.endswith("FAISS"),
            verbose=False,
        )  # fmt: skip
        found = len(triplets)
    figures = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - used,
        "more_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "found": found,
    }
    print(json.dumps(figures))


def write_store(path: Path, groups: int) -> None:
    from hybrid_ir.config import load_experiment
    from hybrid_ir.data import prepare_experiment

    source = path.with_suffix(".jsonl")
    with source.open("w", encoding="utf-8") as lines:
        for n in range(groups):
            lines.write(json.dumps({"query": f"question {n}", "passage": f"passage {n}", "language": "en"}) + "\n")
    sources = f"prepare.sources=[{{kind: records, path: {source}}}]"
    shares = ["prepare.validation_fraction=0", "prepare.test_fraction=0"]
    prepare_experiment(load_experiment(None, [sources, f"store={path}", *shares]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[6000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=3, metavar=("WHO", "GROUPS", "STORE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return one(given.one[0], int(given.one[1]), given.one[2], given.threads)
    print(f"{given.threads} threads\n\n| groups | | s | CPU s | more MB | found |\n|---|---|---|---|---|---|")
    for groups in given.groups:
        with tempfile.TemporaryDirectory() as scratch:
            store = Path(scratch) / "store"
            write_store(store, groups)
            rounds: dict[str, list[dict]] = {}
            for _ in range(given.rounds):
                for who in ("hybrid-ir", "sentence-transformers", "sentence-transformers, FAISS"):
                    words = [sys.executable, __file__, "--threads", str(given.threads)]
                    words += ["--one", who, str(groups), str(store)]
                    done = subprocess.run(words, capture_output=True, text=True, check=True)
                    rounds.setdefault(who, []).append(json.loads(done.stdout.splitlines()[-1]))
        for who, all_of_it in rounds.items():
            seconds, used, more, found = (
                statistics.median(each[key] for each in all_of_it)
                for key in ("seconds", "cpu_seconds", "more_mb", "found")
            )
            print(f"| {groups:,} | {who} | {seconds:.1f} | {used:.1f} | {more:.0f} | {found:,.0f} |", flush=True)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
