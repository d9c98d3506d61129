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

_LEAST = 1e-12  # of a scale: a row of zeros has none


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
        self.reads = self.matrix.dtype

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.matrix.dtype)
        if torch.is_grad_enabled():
            return _Linear.apply(x, self.matrix, self.bias, *self.parameters)
        return F.linear(x, self.matrix, self.bias)


def _stacked(parameters: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parameters)) if len(parameters) > 1 else parameters[0].detach()


class Joined8:
    """The same with weights and inputs in 8 bits, for a CPU and without gradients.

    Each output has a scale of its own, and so has each token. A scale for all tokens of a batch, as torch's and ONNX
    Runtime's dynamic quantisation have it, would make a query's vector depend on the queries beside it (measured on
    multilingual-e5-small: cosines of 0.994 between a query alone and in company, and 0.996 to fp32 in place of 0.999).
    Sums are whole numbers, which no order of adding changes.
    """

    reads = torch.float32

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        with torch.no_grad():
            matrix = _stacked([x.weight for x in layers]).float()
            self._bias = _stacked([x.bias for x in layers]).float()
            self._scale = matrix.abs().amax(1).div_(127).clamp_(min=_LEAST)
            # (inputs, outputs), one after the other: the other order takes ten times as long for a few tokens.
            self._matrix = (matrix / self._scale[:, None]).round_().to(torch.int8).t().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        x = x.float()
        scale = x.abs().amax(1, keepdim=True).div_(127).clamp_(min=_LEAST)
        product = torch.ops.aten._int_mm((x / scale).round_().to(torch.int8), self._matrix).float()
        return torch.addcmul(self._bias, product.mul_(scale), self._scale)


@dataclass(frozen=True)
class LayerWeights:
    qkv: Joined | Joined8
    attention: Joined | Joined8
    inner: Joined | Joined8
    outer: Joined | Joined8


def weights_as_used(transformer: Any, dtype: torch.dtype | None = None) -> list[LayerWeights]:
    """Copies in `dtype` (None = their own) of the matrices of each layer, for `token_vectors`. They are those of now: a
    change of the parameters is not seen. Gradients go to the parameters; through `torch.int8` there are none."""
    layers = []
    for layer in transformer.encoder.layer:
        attention = layer.attention.self
        qkv = [attention.query, attention.key, attention.value]
        rest = (layer.attention.output.dense, layer.intermediate.dense, layer.output.dense)
        groups = [qkv, *([linear] for linear in rest)]
        layers.append(LayerWeights(*(Joined8(g) if dtype is torch.int8 else Joined(g, dtype) for g in groups)))
    return layers
