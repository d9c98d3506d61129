"""The encoder: a sentence-transformers or Hugging Face model, or a small one from scratch; texts in, unit vectors out.

Its container is `SentenceTransformer` (transformer, pooling, optional dense, normalise), so that hub models keep their
own pooling and a checkpoint loads in everything that reads that format. No Ray.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from hybrid_ir.encoders.tokens import tokenize
from hybrid_ir.storage import fetch
from hybrid_ir.types import InputError

PRESETS: dict[str, dict[str, Any]] = {
    # About 0.3 and 3 million parameters besides the vocabulary's: for laptops, tests and the quickstart.
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256},
    "mini": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
}
WINDOW = 16384  # texts that `encode` sorts by length at a time
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # in XLM-R's order: its position ids count from the pad id


def load_encoder(
    name: str,
    *,
    pooling: Literal["mean", "cls", "max"] = "mean",
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    max_tokens: int | None = None,
    device: str = "cpu",
) -> SentenceTransformer:
    """A folder, its URI or a hub name as a SentenceTransformer whose vectors are unit length.

    `pooling` serves models that bring none. Prefixes and length are the model's own where None is given.
    Raises InputError when `name` is not a model that can be loaded.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from sentence_transformers.util import is_sentence_transformer_model

    name = fetch(name)
    if Path(name).exists() and not any((Path(name) / f).is_file() for f in ("modules.json", "config.json")):
        raise InputError(f"{name!r} is not a model: it has neither modules.json nor config.json")
    try:
        if is_sentence_transformer_model(name):
            model = SentenceTransformer(name, device=device)
        else:
            transformer = Transformer(name)
            modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling)]
            model = SentenceTransformer(modules=modules, device=device)
    except (
        Exception
    ) as error:  # a broken file is a SafetensorError, UnpicklingError, RuntimeError, ... : no common class
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{name!r} is not a model that can be loaded: {reason[:200].rstrip(' .')}. Give a preset "
            f"({', '.join(PRESETS)}), a folder, or the name of a Hugging Face model (and check the network or "
            "HF_HUB_OFFLINE)"
        ) from error
    fault = _fault(model)
    if fault:
        raise InputError(f"{name!r} cannot be used: {fault}")
    model.float()  # some are stored in half precision, which AdamW's small steps would not change
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())
    for role, prefix in (("query", query_prefix), ("document", passage_prefix)):
        if prefix is not None:
            model.prompts[role] = prefix
    if max_tokens is None:
        own = model.max_seq_length
        # Tokenizers of models with relative positions (T5) name no length: theirs is 1e30.
        max_tokens = own if own is not None and own < 2**31 else 512
    longest = _positions(model[0])
    model.max_seq_length = max_tokens if longest is None else min(max_tokens, longest)
    return model


def _fault(model: SentenceTransformer) -> str | None:
    """Why a model that could be loaded cannot be trained here, and what to do."""
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    if not isinstance(model[0], Transformer) or model.tokenizer is None:
        return (
            f"its first module is a {type(model[0]).__name__}, not a transformer that reads text; choose another model"
        )
    # Without its files transformers makes a tokenizer that knows nothing, and says nothing.
    if len(model.tokenizer) <= len(model.tokenizer.all_special_ids):
        return "its tokenizer is missing (no vocabulary was found); add tokenizer.json to the folder"
    if model.tokenizer.pad_token_id is None:
        return "its tokenizer has no pad token; set pad_token in tokenizer_config.json"
    if any(isinstance(module, Pooling) and not module.include_prompt for module in model):
        return "its pooling leaves the prompt out, which is not supported; set include_prompt in its pooling config"
    return None


def _positions(transformer: Any) -> int | None:
    """Tokens that the model has positions for; None where they have no end."""
    longest = getattr(transformer.config, "max_position_embeddings", None)
    for name, module in transformer.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1  # RoBERTa's and MPNet's start behind the pad id
    return longest if longest is not None and longest > 0 else None


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
        # A small model on a small store learns as well without dropout (measured), in half the time on a CPU.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
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


def best_device() -> str:
    """`cuda` where this machine has a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_precision(precision: str, device: str) -> str:
    """ "auto" as what is faster here: bf16 on a GPU or a CPU with bf16 instructions (AMX, AVX512-BF16), fp32 on other
    CPUs, where bf16 is emulated (measured: a quarter of fp32's speed).

    The environment variable HYBRID_IR_AUTO_PRECISION (bf16 or fp32) says what "auto" means instead, for results that must
    not depend on the machine. Raises InputError for another value of it.
    """
    if precision != "auto":
        return precision
    asked = os.environ.get("HYBRID_IR_AUTO_PRECISION")
    if asked is not None:
        if asked not in ("bf16", "fp32"):
            raise InputError(f"HYBRID_IR_AUTO_PRECISION must be bf16 or fp32, got {asked!r}; unset it to let us choose")
        return asked
    fast = device.startswith("cuda") or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if fast else "fp32"


class Embedder(nn.Module):
    """Token ids -> unit vectors, in micro-batches without padding beyond need. What DDP wraps."""

    def __init__(self, model: SentenceTransformer, *, precision: str, micro_batch_tokens: int | None) -> None:
        super().__init__()
        self.model = model
        self.precision = resolve_precision(precision, model.device.type)
        self.micro_batch_tokens = micro_batch_tokens or (1024 if model.device.type == "cpu" else 32768)
        self.pad_id = model.tokenizer.pad_token_id

    def micro_batches(self, tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        return micro_batches(np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens)), self.micro_batch_tokens)

    def forward(self, tokens: Sequence[np.ndarray], batches: Sequence[np.ndarray] | None = None) -> Tensor:
        """(len(tokens), D) float32 in the order of `tokens`. `batches` are index arrays that cover them once."""
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
    token_budget: int | None = None,
    progress: Callable[[int], None] = lambda texts: None,
) -> np.ndarray:
    """(len(texts), D) float32 unit vectors, in the order of `texts`. `role` ("query" or "document") picks the prefix.

    Texts are sorted by length over windows, so that memory does not grow with their number.
    """
    was_training = model.training
    model.eval()
    token_budget = token_budget or (4096 if model.device.type == "cpu" else 65536)
    embedder = Embedder(model, precision=precision, micro_batch_tokens=token_budget)
    dimension = model.get_embedding_dimension()
    max_tokens = model.max_seq_length
    assert dimension is not None
    assert max_tokens is not None
    out = np.empty((len(texts), dimension), dtype=np.float32)
    for start in range(0, len(texts), WINDOW):
        part = list(texts[start : start + WINDOW])
        tokens = tokenize(model.tokenizer, part, model.prompts.get(role) or "", max_tokens)
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
