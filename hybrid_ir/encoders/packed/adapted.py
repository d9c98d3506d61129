"""Linear layers that carry a low-rank adapter of PEFT's. In: a layer. Out: its parts, and the weight that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Adapter:
    """What LoRA (arXiv 2106.09685) adds to a weight: scale * B A."""

    a: nn.Parameter
    """(rank, inputs)"""
    b: nn.Parameter
    """(outputs, rank)"""
    scale: float

    @torch.no_grad()
    def added_to(self, weight: Tensor) -> Tensor:
        """A tensor of its own: the weight with the adapter folded in."""
        return torch.addmm(weight, self.b, self.a, alpha=self.scale)


def adapter_of(layer: Any) -> Adapter | None:
    """The layer's adapter; None of one that has none. It is known by PEFT's attributes, so that nothing is imported."""
    if not hasattr(layer, "lora_A"):
        return None
    (name,) = layer.lora_A
    return Adapter(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])


def is_linear(layer: Any) -> bool:
    """Whether the layer computes x W^T + b and nothing else, with or without an adapter folded into W."""
    if not hasattr(layer, "lora_A"):
        return type(layer) is nn.Linear
    if type(layer.base_layer) is not nn.Linear or layer.disable_adapters or layer.merged or len(layer.lora_A) != 1:
        return False
    (name,) = layer.lora_A
    plain = name in layer.active_adapters and not layer.lora_variant and layer.lora_B[name].bias is None
    return plain and type(layer.lora_dropout[name]) is nn.Identity  # dropout is drawn of x, where W has no part in it


def weight_of(layer: Any) -> Tensor:
    """The layer's weight, with its adapter."""
    adapter = adapter_of(layer)
    return layer.weight if adapter is None else adapter.added_to(layer.base_layer.weight)
