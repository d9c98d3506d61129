"""Our encoding, in one process: prints one JSON line. `speed.py` runs it beside its peer.

python benchmarks/encoding.py MODEL TEXTS
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from hybrid_ir.encoders.embedding import encode, resolve_precision
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.quiet import quiet_libraries
from hybrid_ir.encoders.tokens import TextReader


def ours(model_dir: str, texts_file: str, threads: int, precision: str) -> None:
    """Prints one JSON line."""
    quiet_libraries()
    torch.set_num_threads(threads)
    model = load_encoder(model_dir, query_prefix="", passage_prefix="")  # the peer puts nothing before them
    texts = Path(texts_file).read_text(encoding="utf-8").splitlines()
    encode(model, texts[:128], role="document", precision=precision)
    start = time.perf_counter()
    encode(model, texts, role="document", precision=precision)
    seconds = time.perf_counter() - start
    tokens = sum(map(len, TextReader.of(model).read(texts, "document")))
    told = {"texts_per_s": len(texts) / seconds, "precision": resolve_precision(precision, "cpu")}
    print(json.dumps(told | {"tokens_per_text": tokens / len(texts)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of an encoder")
    parser.add_argument("texts", help="file with a text a line")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    ours(given.model, given.texts, given.threads, given.precision)


if __name__ == "__main__":
    main()
