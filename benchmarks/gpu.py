"""Training and encoding on one GPU, ours and sentence-transformers in turn, on an encoder of XLM-R-base's shape.

    python benchmarks/gpu.py --out speed_gpu.json

It needs torch, transformers, sentence-transformers and lazy-loader, and neither Ray nor a network: weights are random,
and so are texts, whose numbers of tokens are spread as XQuAD-R's are. `--device cpu` runs it through on a tiny encoder,
which measures nothing. The peer is sentence-transformers' model and losses in the loop that its trainer runs with bf16
(autocast, fused AdamW, gradients clipped), without the trainer's own cost; texts are read by a tokenizer for neither.
All are timed in turn, in blocks of steps, and the medians are kept. `--profile STEP.txt` writes what a step of batch 64
and one of 1,024 spend on the card and on the host.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
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

QUERY, PASSAGE = (3.25, 0.57), (3.53, 0.57)  # mean and deviation of the logarithm of XQuAD-R's and NTREX's lengths
PEER_UP_TO = 4096  # beyond it a step of the peer takes minutes
MINI_BATCH = 128  # texts of the peer's cache at a time: its default of 32 leaves the card idle


@dataclass(frozen=True)
class Setup:
    """What is measured on a device."""

    device: str
    layers: int
    hidden: int
    inner: int
    heads: int
    vocabulary: int
    batches: dict[int, bool]
    """Size -> through the gradient cache."""
    matrix: int
    """Side of the matrices whose product is the rate to compare with."""
    encoded: int
    """Texts to encode."""


GPU = Setup(
    "cuda", 12, 768, 3072, 12, 250_002, {64: False, 256: False, 1024: False, 4096: True, 32768: True}, 8192, 16384
)
CPU = Setup("cpu", 2, 64, 128, 2, 1002, {8: False, 16: True}, 256, 200)


def make_model(setup: Setup) -> SentenceTransformer:
    """Random weights behind a tokenizer of made-up words."""
    torch.manual_seed(0)
    words = {name: i for i, name in enumerate(["<s>", "<pad>", "</s>", "<unk>"])}
    words |= {f"w{i}": i for i in range(len(words), setup.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **special)
    config = XLMRobertaConfig(
        vocab_size=setup.vocabulary,
        hidden_size=setup.hidden,
        num_hidden_layers=setup.layers,
        num_attention_heads=setup.heads,
        intermediate_size=setup.inner,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
        fast.save_pretrained(folder)
        transformer = Transformer(folder)
    return SentenceTransformer(modules=[transformer, Pooling(setup.hidden, "mean"), Normalize()], device=setup.device)


def draw_texts(setup: Setup, count: int, lengths: tuple[float, float], seed: int) -> Tokens:
    draw = np.random.default_rng(seed)
    sizes = np.clip(np.exp(draw.normal(*lengths, count)).astype(int), 4, 256)
    return Tokens.of([[0, *draw.integers(4, setup.vocabulary, size - 2), 2] for size in sizes])


def batch_of(setup: Setup, size: int, seed: int) -> Batch:
    alone, one = np.arange(size)[:, None], np.zeros(size, dtype=np.int64)
    return Batch(
        step=seed,
        kind="monolingual",
        pairs=(("en", "en"),) * size,
        query_tokens=draw_texts(setup, size, QUERY, 2 * seed),
        passage_tokens=draw_texts(setup, size, PASSAGE, 2 * seed + 1),
        negative_tokens=None,
        passage_ids_BLS=alone[:, :, None],
        passage_language_B=one,
        query_ids_BM=alone,
        query_language_B=one,
        negative_ids_N=None,
        negative_row_N=None,
    )


Step = Callable[[Batch], None]


def our_step(model: SentenceTransformer, cached: bool, precision: str = "bf16", **how: Any) -> Step:
    embedder = Embedder(model, precision=precision, micro_batch_tokens=None, **how)
    freeze_unused(embedder)
    embedder.train()
    optimizer = make_optimizer(embedder, 5e-5, 0.01)
    settings = LossSettings(temperature=0.05, symmetric=False, negatives="in_batch", cached=cached)

    def step(batch: Batch) -> None:
        backward(embedder, batch, settings, 0, 1)
        update(optimizer, embedder, 5e-5, 1.0)

    return step


def their_step(model: SentenceTransformer, cached: bool) -> Step:
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
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = loss_of([features(batch.query_tokens), features(batch.passage_tokens)], None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def with_tf32(step: Step) -> Step:
    def in_tf32(batch: Batch) -> None:
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            step(batch)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False

    return in_tf32


def steps_of(setup: Setup, model: SentenceTransformer, size: int, cached: bool) -> dict[str, Callable[[], Step]]:
    """Makers of a step by each way."""
    ways: dict[str, Callable[[], Step]] = {"ours": lambda: our_step(model, cached)}
    if setup.device == "cuda" and not cached:
        ways["ours_padded"] = lambda: our_step(model, cached, flash=False)
        ways["ours_checkpointing"] = lambda: our_step(model, cached, recompute=True)
    if setup.device == "cuda" and size == 256:
        ways["ours_fp32"] = lambda: our_step(model, cached, "fp32")
        ways["ours_tf32"] = lambda: with_tf32(our_step(model, cached, "fp32"))
    if size <= PEER_UP_TO:
        ways["peer"] = lambda: their_step(model, cached)
    return ways


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(step: Step, batches: list[Batch]) -> float:
    wait()
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    wait()
    return (time.perf_counter() - start) / len(batches)


def operations(setup: Setup, batches: list[Batch], cached: bool) -> float:
    """Multiplications and additions of a step: layers and attention of texts without padding, there and back, and there
    once more through the cache; and the scores of the loss."""
    weights = setup.layers * (4 * setup.hidden * setup.hidden + 2 * setup.hidden * setup.inner)
    total = 0.0
    for batch in batches:
        lengths = np.concatenate([batch.query_tokens.lengths, batch.passage_tokens.lengths]).astype(float)
        forward = 2 * weights * lengths.sum() + 4 * setup.layers * setup.hidden * (lengths**2).sum()
        total += (4 if cached else 3) * forward + 6 * setup.hidden * float(batch.size) ** 2
    return total / len(batches)


def train(
    setup: Setup, model: SentenceTransformer, size: int, cached: bool, rounds: int, rate: float
) -> dict[str, Any]:
    """All ways in turn on the same batches; one that does not fit the card has no figures."""
    count = 10 if size <= 1024 else 2 if size <= 4096 else 1
    batches = [batch_of(setup, size, seed) for seed in range(count)]
    tokens = float(np.mean([len(b.query_tokens.flat) + len(b.passage_tokens.flat) for b in batches]))
    made: dict[str, Any] = {"batch": size, "cached": cached, "tokens": tokens}
    floor = operations(setup, batches, cached) / rate
    ways = steps_of(setup, model, size, cached)
    found: dict[str, list[float]] = {name: [] for name in ways}
    peaks = dict.fromkeys(ways, float("nan"))
    for _turn in range(rounds):
        for name, make in ways.items():
            gc.collect()
            if setup.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                step = make()
                seconds_of(step, batches[:1] if cached else batches)
                found[name].append(seconds_of(step, batches))
                if setup.device == "cuda":
                    peaks[name] = torch.cuda.max_memory_allocated() / 2**20
            except torch.OutOfMemoryError:
                found[name].append(float("nan"))
            step = None
            for parameter in model.parameters():
                parameter.requires_grad_(True)
                parameter.grad = None
    for name, times in found.items():
        median = float(np.median(times))
        made[name] = {
            "s_per_step": median,
            "pairs_per_s": size / median,
            "tokens_per_s": tokens / median,
            "share_of_matrix_rate": floor / median,
            "peak_mb": peaks[name],
        }
    if "peer" in made:
        made["ratio"] = made["ours"]["pairs_per_s"] / made["peer"]["pairs_per_s"]
    return made


def profile(setup: Setup, model: SentenceTransformer, size: int) -> str:
    """What our step spends, by torch's profiler: where the card's time goes, and where the host's."""
    batches = [batch_of(setup, size, seed) for seed in range(4)]
    step = our_step(model, False)
    seconds_of(step, batches)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as made:
        seconds_of(step, batches)
    by = ("self_device_time_total", "self_cpu_time_total")
    tables = [made.key_averages().table(sort_by=key, row_limit=30, max_name_column_width=70) for key in by]
    return f"batch {size}, {len(batches)} steps\n" + "\n".join(tables)


def measure_encoding(setup: Setup, model: SentenceTransformer, rounds: int) -> dict[str, Any]:
    tokens = draw_texts(setup, setup.encoded, PASSAGE, 99)
    texts = [" ".join(f"w{piece}" for piece in tokens[i][1:-1]) for i in range(len(tokens))]
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: encode(model, texts, role="document"),
        "peer": lambda: model.encode(texts, normalize_embeddings=True),
        "peer_batch_512": lambda: model.encode(texts, normalize_embeddings=True, batch_size=512),
    }
    found: dict[str, list[float]] = {name: [] for name in (*ways, "peer_bf16_batch_512")}
    vectors = {name: way() for name, way in ways.items()}  # the first run of each loads kernels
    for _turn in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            vectors[name] = way()
            found[name].append(len(texts) / (time.perf_counter() - start))
    model.bfloat16()
    ways["peer_batch_512"]()
    for _turn in range(rounds):
        start = time.perf_counter()
        model.encode(texts, normalize_embeddings=True, batch_size=512)
        found["peer_bf16_batch_512"].append(len(texts) / (time.perf_counter() - start))
    model.float()
    cosines = (vectors["ours"] * vectors["peer"]).sum(axis=1)
    return {
        "texts_per_s": {name: float(np.median(v)) for name, v in found.items()},
        "least_cosine": float(cosines.min()),
    }


def matrix_rate(setup: Setup) -> float:
    """Operations a second of a product of large bf16 matrices on this device."""
    side = setup.matrix
    a, b = (torch.randn(side, side, device=setup.device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(20):
        wait()
        start = time.perf_counter()
        a @ b
        wait()
        times.append(time.perf_counter() - start)
    return 2 * side**3 / float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("speed_gpu.json"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batches", type=int, nargs="*", help="of these sizes alone")
    parser.add_argument("--profile", type=Path, help="where to write what a step spends")
    given = parser.parse_args()
    setup = GPU if given.device == "cuda" else CPU
    rate = matrix_rate(setup)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if given.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "matrix_tflops": rate / 1e12,
        "training": [],
    }
    model = make_model(setup)
    if given.profile is not None:
        given.profile.write_text("\n".join(profile(setup, model, size) for size in list(setup.batches)[:3:2]))
    for size, cached in setup.batches.items():
        if given.batches is None or size in given.batches:
            row = train(setup, model, size, cached, given.rounds, rate)
            found["training"].append(row)
            print(json.dumps(row), flush=True)
            given.out.write_text(json.dumps(found, indent=2))
    found["encoding"] = measure_encoding(setup, model, given.rounds)
    print(json.dumps(found["encoding"]), flush=True)
    given.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
