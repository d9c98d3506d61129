"""Encoding speed beside SentenceTransformer.encode: same model, texts, threads; alternating runs, medians.

python benchmarks/encoding.py --xquad DIR --peer PEERS/encode_peer.py
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from pairs import alternate, make_inputs, print_table

from hybrid_ir.encoders.embedding import encode, resolve_precision
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.quiet import quiet_libraries


def ours(model_dir: str, texts_file: str, threads: int, precision: str) -> None:
    """Prints one JSON line."""
    quiet_libraries()
    torch.set_num_threads(threads)
    model = load_encoder(model_dir)
    texts = Path(texts_file).read_text(encoding="utf-8").splitlines()
    encode(model, texts[:128], role="document", precision=precision)
    start = time.perf_counter()
    encode(model, texts, role="document", precision=precision)
    seconds = time.perf_counter() - start
    print(json.dumps({"texts_per_s": len(texts) / seconds, "precision": resolve_precision(precision, "cpu")}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--xquad", type=Path, help="folder of XQuAD-R")
    parser.add_argument("--peer", help="encode_peer.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=13014, help="encode the first so many sentences")
    parser.add_argument("--ours", nargs=2, metavar=("MODEL", "TEXTS"), help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="auto", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        return ours(*args.ours, args.threads, args.precision)
    with tempfile.TemporaryDirectory() as folder:
        model, _, texts = make_inputs(args.xquad, Path(folder))
        texts.write_text("\n".join(texts.read_text(encoding="utf-8").splitlines()[: args.texts]), encoding="utf-8")
        threads = ["--threads", str(args.threads)]
        commands = {
            "ours": [sys.executable, __file__, "--ours", str(model), str(texts), *threads],
            "peer": [sys.executable, args.peer, "--model", str(model), "--texts", str(texts), *threads],
        }
        print_table(alternate(commands, "texts_per_s", args.rounds), "ours", "texts/s")


if __name__ == "__main__":
    main()
