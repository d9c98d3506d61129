"""The encoder: any sentence-transformers or Hugging Face model, or a small one made from scratch; texts in, unit vectors out.

Its container is `SentenceTransformer` (transformer, pooling, optional dense, normalise), so that hub models keep their own
pooling and a checkpoint loads in everything that reads that format. No Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from hybrid_ir.batches import tokenize
from hybrid_ir.types import InputError

PRESETS = {
    # About 1 and 7 million parameters besides the vocabulary's: for laptops, tests and the quickstart.
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512},
    "mini": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
}
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # in XLM-R's order: its position ids count from the pad id


def load_encoder(
    name: str,
    *,
    pooling: str = "mean",
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    max_tokens: int | None = None,
    device: str = "cpu",
) -> SentenceTransformer:
    """A folder or hub name as a SentenceTransformer whose vectors are unit length.

    `pooling` serves models that bring none. Prefixes and length are the model's own where None is given.
    Raises InputError when `name` is not a model that can be loaded.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from sentence_transformers.util import is_sentence_transformer_model

    if Path(name).exists() and not any((Path(name) / f).is_file() for f in ("modules.json", "config.json")):
        raise InputError(f"{name} is not a model: it has neither modules.json nor config.json")
    try:
        if is_sentence_transformer_model(name):
            model = SentenceTransformer(name, device=device)
        else:
            transformer = Transformer(name)
            modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling)]
            model = SentenceTransformer(modules=modules, device=device)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{name!r} is not a model that can be loaded: {reason[:200]}. Give a preset ({', '.join(PRESETS)}), a folder, "
            "or the name of a Hugging Face model (and check the network or HF_HUB_OFFLINE)"
        ) from error
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())
    for role, prefix in (("query", query_prefix), ("document", passage_prefix)):
        if prefix is not None:
            model.prompts[role] = prefix
    if max_tokens is not None:
        longest = getattr(model[0].config, "max_position_embeddings", None)
        if longest is not None:
            # RoBERTa's positions start behind its pad id.
            longest -= model.tokenizer.pad_token_id + 1 if "roberta" in model[0].config.model_type else 0
            max_tokens = min(max_tokens, longest)
        model.max_seq_length = max_tokens
    return model


def create_encoder(
    preset: str, texts: Iterable[str], folder: str | Path, *, vocabulary: int, max_tokens: int, seed: int
) -> None:
    """Save a from-scratch XLM-R-shaped encoder: a BPE tokenizer trained on `texts`, random weights from `seed`.

    BPE and not XLM-R's Unigram: its training is a count of pairs, the same every time, where Unigram's sums of floats
    differ from run to run (and take ten times as long).
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL_TOKENS, max_token_length=16, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    config = XLMRobertaConfig(
        **PRESETS[preset],
        vocab_size=len(fast),
        max_position_embeddings=max_tokens + 2,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = XLMRobertaModel(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def micro_batches(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Indices sorted by length (stable), cut so that no micro-batch holds more than `max_tokens` padded tokens
    (a single longer text is a micro-batch of its own)."""
    order = np.argsort(lengths, kind="stable")
    batches, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or lengths[order[end]] * (end + 1 - start) > max_tokens:
            batches.append(order[start:end])
            start = end
    return batches


def resolve_precision(precision: str, device: str) -> str:
    """"auto" as what is faster here: bf16 on a GPU or a CPU with bf16 instructions (AMX, AVX512-BF16), fp32 on other
    CPUs, where bf16 is emulated (measured: a quarter of fp32's speed)."""
    if precision != "auto":
        return precision
    fast = device.startswith("cuda") or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if fast else "fp32"


class Embedder(nn.Module):
    """Token ids -> unit vectors, in micro-batches without padding beyond need. What DDP wraps."""

    def __init__(self, model: SentenceTransformer, *, precision: str, micro_batch_tokens: int) -> None:
        super().__init__()
        self.model = model
        self.precision = resolve_precision(precision, model.device.type)
        self.micro_batch_tokens = micro_batch_tokens
        self.pad_id = model.tokenizer.pad_token_id

    def micro_batches(self, tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        return micro_batches(np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens)), self.micro_batch_tokens)

    def forward(self, tokens: Sequence[np.ndarray], batches: Sequence[np.ndarray] | None = None) -> Tensor:
        """(len(tokens), D) float32 in the order of `tokens`. `batches` are index arrays that together cover them once."""
        batches = self.micro_batches(tokens) if batches is None else batches
        vectors = torch.cat([self._embed([tokens[i] for i in batch]) for batch in batches])
        return vectors[torch.from_numpy(np.argsort(np.concatenate(list(batches)))).to(vectors.device)]

    def _embed(self, tokens: Sequence[np.ndarray]) -> Tensor:
        device = self.model.device
        longest = max(map(len, tokens))
        ids = np.full((len(tokens), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(tokens), longest), dtype=np.int64)
        for i, row in enumerate(tokens):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        features: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids).to(device, non_blocking=True),
            "attention_mask": torch.from_numpy(mask).to(device, non_blocking=True),
        }
        bf16 = torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with bf16:
            features = self.model[0](features)
        # Pooling, dense and normalising stay in float32: bf16 keeps 8 bits, too few for a cosine divided by 0.05.
        if self.precision == "bf16":
            features["token_embeddings"] = features["token_embeddings"].float()
        for module in list(self.model)[1:]:
            features = module(features)
        return features["sentence_embedding"]


@torch.inference_mode()
def encode(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    role: str,
    precision: str = "auto",
    token_budget: int = 8192,
    progress: Callable[[int], None] = lambda texts: None,
) -> np.ndarray:
    """(len(texts), D) float32 unit vectors, in the order of `texts`. `role` is "query" or "document": it picks the prefix.

    Texts are sorted by length over windows of 16,384, so that memory does not grow with their number.
    """
    was_training = model.training
    model.eval()
    embedder = Embedder(model, precision=precision, micro_batch_tokens=token_budget)
    dimension = model.get_embedding_dimension()
    out = np.empty((len(texts), dimension), dtype=np.float32)
    window = 16384
    for start in range(0, len(texts), window):
        part = list(texts[start : start + window])
        tokens = tokenize(model.tokenizer, part, model.prompts.get(role) or "", model.max_seq_length)
        for batch in embedder.micro_batches(tokens):
            out[start + batch] = embedder._embed([tokens[i] for i in batch]).float().cpu().numpy()
            progress(len(batch))
    model.train(was_training)
    return out


def freeze_unused(embedder: Embedder) -> list[str]:
    """Freeze parameters that no embedding depends on (a BERT pooler that the pooling module ignores) and name them:
    DDP would wait for their gradients for ever."""
    embedder.zero_grad(set_to_none=True)
    # Random weights on the output: the sum of squares of a unit vector has no gradient.
    vectors = embedder([np.asarray([0, 1, 2, 3], dtype=np.int32)])
    (vectors * torch.linspace(-1, 1, vectors.shape[1], device=vectors.device)).sum().backward()
    unused = [name for name, p in embedder.named_parameters() if p.requires_grad and p.grad is None]
    for name, parameter in embedder.named_parameters():
        if name in unused:
            parameter.requires_grad_(False)
    embedder.zero_grad(set_to_none=True)
    return unused
