"""What one would use instead: sentence-transformers as its documentation has it. One run a process, one JSON line.

python benchmarks/peers.py train MODEL PAIRS [--bf16]
python benchmarks/peers.py encode MODEL TEXTS [--bf16]
python benchmarks/peers.py serve MODEL PASSAGES --port 8900           (until it is stopped, and it prints nothing)
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import faiss
import pyarrow.parquet as pq
import torch
import uvicorn
from datasets import Dataset
from fastapi import Body, FastAPI
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses
from transformers import TrainerCallback


class Clock(TrainerCallback):
    """Times of the ends of steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_, **__) -> None:
        self.ends.append(time.perf_counter())


def train(model_folder: str, pairs: str, batch_size: int, steps: int, warmup: int, bf16: bool) -> dict:
    """SentenceTransformerTrainer with in-batch negatives, all else as it comes."""
    model = SentenceTransformer(model_folder, device="cpu")
    table = pq.read_table(pairs)
    data = Dataset.from_dict({"anchor": table["query"].to_pylist(), "positive": table["passage"].to_pylist()})
    settings = SentenceTransformerTrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=steps + warmup,
        per_device_train_batch_size=batch_size,
        learning_rate=5e-5,
        bf16=bf16,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    clock, loss = Clock(), losses.MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model, settings, train_dataset=data, loss=loss, callbacks=[clock]).train()
    seconds = clock.ends[-1] - clock.ends[warmup - 1]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"pairs_per_s": steps * batch_size / seconds, "s_per_step": seconds / steps, "peak_mb": peak_mb}


def encode(model_folder: str, texts: str, bf16: bool) -> dict:
    """SentenceTransformer.encode; `bf16` keeps its weights so."""
    settings = {"model_kwargs": {"dtype": torch.bfloat16}} if bf16 else {}
    model = SentenceTransformer(model_folder, device="cpu", **settings)
    lines = Path(texts).read_text(encoding="utf-8").splitlines()
    model.encode(lines[:128], normalize_embeddings=True)
    start = time.perf_counter()
    model.encode(lines, normalize_embeddings=True)
    return {"texts_per_s": len(lines) / (time.perf_counter() - start)}


def serve(model_folder: str, passages: str, port: int, threads: int) -> None:
    """A server of one process: FastAPI on uvicorn, one query a request, one flat index over all passages."""
    faiss.omp_set_num_threads(threads)
    model = SentenceTransformer(model_folder, device="cpu")
    table = pq.read_table(passages, columns=["doc_id", "text"])
    doc_ids, texts = table["doc_id"].to_pylist(), table["text"].to_pylist()
    vectors = model.encode(texts, batch_size=64, normalize_embeddings=True)
    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    app = FastAPI()

    @app.post("/search")
    def search(query: Annotated[str, Body()], k: Annotated[int, Body()] = 10) -> dict:
        scores, rows = index.search(model.encode([query], normalize_embeddings=True), k)
        found = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        return {"hits": [{"doc_id": doc_ids[row], "text": texts[row], "score": score} for row, score in found]}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "encode", "serve"])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup-steps", type=int, default=3)
    parser.add_argument("--port", type=int, default=8900)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.what == "serve":
        return serve(given.model, given.data, given.port, given.threads)
    if given.what == "train":
        made = train(given.model, given.data, given.batch_size, given.steps, given.warmup_steps, given.bf16)
    else:
        made = encode(given.model, given.data, given.bf16)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
