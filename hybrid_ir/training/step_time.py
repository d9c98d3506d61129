"""How long a training step takes here. In: the sizes of an encoder and a batch. Out: seconds, measured on this CPU."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel


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
    ids = torch.randint(5, vocabulary, (2 * batch, tokens))
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        for part in ids.split(max(1, 1024 // tokens)):  # micro-batches as training's
            model(input_ids=part).last_hidden_state.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - begun)
    torch.set_num_threads(before)
    return float(np.median(times[1:]))
