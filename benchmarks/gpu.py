"""Training and encoding on one GPU, ours and sentence-transformers in turn, on an encoder of XLM-R-base's shape.

    python benchmarks/gpu.py --out speed_gpu.json

It needs torch, transformers and sentence-transformers, and neither Ray nor a network: weights are random, and so are
texts, whose numbers of tokens are spread as XQuAD-R's are. `--device cpu` runs it through on a tiny encoder, which
measures nothing. The peer is sentence-transformers' model and losses in the loop that its trainer runs with bf16
(autocast, fused AdamW, gradients clipped), without the trainer's own cost; texts are read by a tokenizer for neither.
Both are timed in turn, in blocks of steps, and the medians are kept.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from hybrid_ir.batches.batch import Batch
from hybrid_ir.encoders.embedding import Embedder, encode, freeze_unused
from hybrid_ir.encoders.tokens import Tokens
from hybrid_ir.encoders.transfer import to_device
from hybrid_ir.training.step import LossSettings, backward, make_optimizer, update

SHAPES = {"cuda": (12, 768, 3072, 12, 250_002), "cpu": (2, 64, 128, 2, 1002)}
QUERY, PASSAGE = (3.25, 0.57), (3.53, 0.57)  # mean and deviation of the logarithm of XQuAD-R's and NTREX's lengths
BATCHES = {"cuda": {64: False, 256: False, 1024: False, 4096: True, 32768: True}, "cpu": {8: False, 16: True}}
"""Size -> through the gradient cache."""
MINI_BATCH = 128  # texts of the peer's cache at a time: its default of 32 leaves the card idle
MATRIX = {"cuda": 8192, "cpu": 256}
ENCODED = {"cuda": 16384, "cpu": 200}


DEVICE = "cpu" if "cpu" in sys.argv else "cuda"
LAYERS, HIDDEN, INNER, HEADS, VOCABULARY = SHAPES[DEVICE]


def make_model() -> SentenceTransformer:
    """Random weights behind a tokenizer of made-up words."""
    torch.manual_seed(0)
    words = {name: i for i, name in enumerate(["<s>", "<pad>", "</s>", "<unk>"])}
    words |= {f"w{i}": i for i in range(len(words), VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **special)
    config = XLMRobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
        fast.save_pretrained(folder)
        transformer = Transformer(folder)
    return SentenceTransformer(modules=[transformer, Pooling(HIDDEN, "mean"), Normalize()], device=DEVICE)


def draw_texts(count: int, lengths: tuple[float, float], seed: int) -> Tokens:
    draw = np.random.default_rng(seed)
    sizes = np.clip(np.exp(draw.normal(*lengths, count)).astype(int), 4, 256)
    return Tokens.of([[0, *draw.integers(4, VOCABULARY, size - 2), 2] for size in sizes])


def batch_of(size: int, seed: int) -> Batch:
    alone, one = np.arange(size)[:, None], np.zeros(size, dtype=np.int64)
    return Batch(
        step=seed,
        kind="monolingual",
        pairs=(("en", "en"),) * size,
        query_tokens=draw_texts(size, QUERY, 2 * seed),
        passage_tokens=draw_texts(size, PASSAGE, 2 * seed + 1),
        negative_tokens=None,
        passage_ids_BLS=alone[:, :, None],
        passage_language_B=one,
        query_ids_BM=alone,
        query_language_B=one,
        negative_ids_N=None,
        negative_row_N=None,
    )


def our_step(model: SentenceTransformer, cached: bool) -> Callable[[Batch], None]:
    embedder = Embedder(model, precision="bf16", micro_batch_tokens=None, flash=DEVICE == "cuda")
    freeze_unused(embedder)
    embedder.train()
    optimizer = make_optimizer(embedder, 5e-5, 0.01)
    settings = LossSettings(temperature=0.05, symmetric=False, negatives="in_batch", cached=cached)

    def step(batch: Batch) -> None:
        backward(embedder, batch, settings, 0, 1)
        update(optimizer, embedder, 5e-5, 1.0)

    return step


def their_step(model: SentenceTransformer, cached: bool) -> Callable[[Batch], None]:
    loss_of: Any = MultipleNegativesRankingLoss(model)
    if cached:
        loss_of = CachedMultipleNegativesRankingLoss(model, mini_batch_size=MINI_BATCH)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01, fused=True)

    def features(tokens: Tokens) -> dict[str, torch.Tensor]:
        ids, mask = tokens.padded(1)
        arrays = {"input_ids": ids, "attention_mask": mask}
        return {name: to_device(array, model.device) for name, array in arrays.items()}

    def step(batch: Batch) -> None:
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = loss_of([features(batch.query_tokens), features(batch.passage_tokens)], None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds_of(step: Callable[[Batch], None], batches: list[Batch]) -> float:
    wait()
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    wait()
    return (time.perf_counter() - start) / len(batches)


def operations(batches: list[Batch], cached: bool) -> float:
    """Multiplications and additions of a step: layers and attention of texts without padding, there and back, and there
    once more through the cache; and the scores of the loss."""
    weights = LAYERS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)
    total = 0.0
    for batch in batches:
        lengths = np.concatenate([batch.query_tokens.lengths, batch.passage_tokens.lengths]).astype(float)
        forward = 2 * weights * lengths.sum() + 4 * LAYERS * HIDDEN * (lengths**2).sum()
        total += (4 if cached else 3) * forward + 6 * HIDDEN * float(batch.size) ** 2
    return total / len(batches)


def train(model: SentenceTransformer, size: int, cached: bool, rounds: int, rate: float) -> dict[str, Any]:
    """Both in turn on the same batches; a run that does not fit the card has no figures."""
    count = 10 if size <= 1024 else 2 if size <= 4096 else 1
    batches = [batch_of(size, seed) for seed in range(count)]
    tokens = float(np.mean([len(b.query_tokens.flat) + len(b.passage_tokens.flat) for b in batches]))
    made: dict[str, Any] = {"batch": size, "cached": cached, "tokens": tokens}
    floor = operations(batches, cached) / rate
    found: dict[str, list[float]] = {"ours": [], "peer": []}
    peaks: dict[str, float] = {}
    for _turn in range(rounds):
        for name, make in (("ours", our_step), ("peer", their_step)):
            gc.collect()
            if DEVICE == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                step = make(model, cached)
                seconds_of(step, batches[:1] if cached else batches)
                found[name].append(seconds_of(step, batches))
                peaks[name] = torch.cuda.max_memory_allocated() / 2**20 if DEVICE == "cuda" else float("nan")
            except torch.OutOfMemoryError:
                peaks[name] = float("nan")
            step = None
            for parameter in model.parameters():
                parameter.requires_grad_(True)
                parameter.grad = None
    for name, times in found.items():
        median = float(np.median(times)) if times else float("nan")
        made[name] = {
            "s_per_step": median,
            "pairs_per_s": size / median,
            "tokens_per_s": tokens / median,
            "share_of_matrix_rate": floor / median,
            "peak_mb": peaks[name],
        }
    made["ratio"] = made["ours"]["pairs_per_s"] / made["peer"]["pairs_per_s"]
    return made


def measure_encoding(model: SentenceTransformer, rounds: int) -> dict[str, Any]:
    tokens = draw_texts(ENCODED[DEVICE], PASSAGE, 99)
    texts = [" ".join(f"w{piece}" for piece in tokens[i][1:-1]) for i in range(len(tokens))]
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: encode(model, texts, role="document"),
        "peer": lambda: model.encode(texts, normalize_embeddings=True),
        "peer_batch_512": lambda: model.encode(texts, normalize_embeddings=True, batch_size=512),
    }
    found: dict[str, list[float]] = {name: [] for name in (*ways, "peer_bf16_batch_512")}
    vectors = {}
    for _turn in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            vectors[name] = way()
            found[name].append(len(texts) / (time.perf_counter() - start))
    model.bfloat16()
    for _turn in range(rounds):
        start = time.perf_counter()
        model.encode(texts, normalize_embeddings=True, batch_size=512)
        found["peer_bf16_batch_512"].append(len(texts) / (time.perf_counter() - start))
    cosines = (vectors["ours"] * vectors["peer"]).sum(axis=1)
    return {
        "texts_per_s": {name: float(np.median(v)) for name, v in found.items()},
        "least_cosine": float(cosines.min()),
    }


def matrix_rate() -> float:
    """Operations a second of a product of large bf16 matrices on this card."""
    a, b = (torch.randn(MATRIX[DEVICE], MATRIX[DEVICE], device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(20):
        wait()
        start = time.perf_counter()
        a @ b
        wait()
        times.append(time.perf_counter() - start)
    return 2 * MATRIX[DEVICE] ** 3 / float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("speed_gpu.json"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    given = parser.parse_args()
    rate = matrix_rate()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        "torch": torch.__version__,
        "matrix_tflops": rate / 1e12,
        "training": [],
    }
    model = make_model()
    for size, cached in BATCHES[DEVICE].items():
        row = train(model, size, cached, given.rounds, rate)
        found["training"].append(row)
        print(json.dumps(row), flush=True)
        given.out.write_text(json.dumps(found, indent=2))
    found["encoding"] = measure_encoding(model, given.rounds)
    print(json.dumps(found["encoding"]), flush=True)
    given.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
