"""Loading an encoder. In: a folder, a URI or a hub name. Out: a `SentenceTransformer`, or what is wrong.

Its modules are a transformer, pooling, perhaps a dense layer, and normalising. So hub models keep their own pooling,
and a checkpoint loads in everything that reads that format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentence_transformers.util import is_sentence_transformer_model
from torch import nn

from hybrid_ir.encoders.presets import PRESETS
from hybrid_ir.machine import usable_cpus
from hybrid_ir.storage import fetch
from hybrid_ir.types import InputError


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
    # torch takes all CPUs of the machine, and time on them may be limited: more threads than that wait for each other.
    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))
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
    except Exception as error:  # a broken file raises SafetensorError, UnpicklingError, ...: no common class
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
