"""How long a training step takes here. In: the sizes of an encoder and a batch. Out: seconds, measured on this CPU."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from hybrid_ir.encoders import Tokens, resolve_precision, token_vectors, weights_as_used


@lru_cache
def measured_step_s(
    shape: tuple[int, int, int], vocabulary: int, batch: int, tokens: int, threads: int | None
) -> float:
    """Seconds of a training step of such an encoder on this machine's CPU, with random weights and texts."""
    layers, hidden, intermediate = shape
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    config = XLMRobertaConfig(
        vocab_size=vocabulary,
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=max(1, hidden // 64),
        max_position_embeddings=tokens + 2,
    )
    model: Any = XLMRobertaModel(config, add_pooling_layer=False)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    dtype = torch.bfloat16 if resolve_precision("auto", "cpu") == "bf16" else None
    texts = Tokens.of(list(np.random.default_rng(0).integers(5, vocabulary, (2 * batch, tokens))))
    together = max(1, 4096 // tokens)  # micro-batches of about training's size
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        weights = weights_as_used(model, dtype)
        for start in range(0, len(texts), together):
            token_vectors(model, weights, texts[start : start + together]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - begun)
    torch.set_num_threads(before)
    return float(np.median(times[1:]))
