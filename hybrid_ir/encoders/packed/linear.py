"""Linear layers whose weights are cast once and used many times. In: a transformer. Out: its layers' products.

Gradients reach the parameters in their own precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Linear(torch.autograd.Function):
    """x W^T + b for matrices of parameters one above another, in the precision of `matrix`. Gradients are in that of
    the parameters, so that several micro-batches add up in it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, bias: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x, matrix)
        ctx.sizes = [len(p) for p in parameters[: len(parameters) // 2]]
        ctx.kept_in = parameters[0].dtype
        return F.linear(x, matrix, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, matrix = ctx.saved_tensors
        of_matrix = (grad.T @ x).to(ctx.kept_in).split(ctx.sizes)
        of_bias = grad.sum(0, dtype=ctx.kept_in).split(ctx.sizes)
        return grad @ matrix, None, None, *of_matrix, *of_bias


class Joined:
    """Linear layers that read the same input, as one, with their weights in the precision they are used in."""

    def __init__(self, layers: Sequence[nn.Linear], dtype: torch.dtype | None) -> None:
        self.parameters = [layer.weight for layer in layers] + [layer.bias for layer in layers]
        self.sizes = [len(layer.weight) for layer in layers]
        with torch.no_grad():
            matrix, bias = _stacked([x.weight for x in layers]), _stacked([x.bias for x in layers])
            self.matrix, self.bias = matrix.to(dtype or matrix.dtype), bias.to(dtype or bias.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.matrix.dtype)
        if torch.is_grad_enabled():
            return _Linear.apply(x, self.matrix, self.bias, *self.parameters)
        return F.linear(x, self.matrix, self.bias)


def _stacked(parameters: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parameters)) if len(parameters) > 1 else parameters[0].detach()


@dataclass(frozen=True)
class LayerWeights:
    qkv: Joined
    attention: Joined
    inner: Joined
    outer: Joined


def weights_as_used(transformer: Any, dtype: torch.dtype | None = None) -> list[LayerWeights]:
    """Copies in `dtype` (None = their own) of the matrices of each layer, for `token_vectors`. They are those of now: a
    change of the parameters is not seen. Gradients go to the parameters."""
    layers = []
    for layer in transformer.encoder.layer:
        attention = layer.attention.self
        qkv = Joined([attention.query, attention.key, attention.value], dtype)
        rest = (layer.attention.output.dense, layer.intermediate.dense, layer.output.dense)
        layers.append(LayerWeights(qkv, *(Joined([linear], dtype) for linear in rest)))
    return layers
