"""Linear layers whose weights are cast once and used many times. In: a transformer. Out: its layers' products.

Gradients reach the parameters in their own precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_ir.encoders.packed.adapted import adapter_of, weight_of

_LEAST = 1e-12  # of a scale: a row of zeros has none


class Joined:
    """Linear layers that read the same input, as one, with their weights in the precision they are used in.

    Where layers carry adapters, these are folded into the weights, and are what is trained: their gradients are made of
    products of low rank, and the weights' own, a third of a step, are not computed.
    """

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype | None) -> None:
        sizes = [len(layer.weight) for layer in layers]
        ends = np.cumsum([0, *sizes]).tolist()
        own = [layer.weight for layer in layers] + [layer.bias for layer in layers]
        with torch.no_grad():
            matrix, bias = _stacked([weight_of(x) for x in layers]), _stacked([x.bias for x in layers])
            self.matrix, self.bias = matrix.to(dtype or matrix.dtype), bias.to(dtype or bias.dtype)
        self.reads = self.matrix.dtype
        adapted = [(adapter_of(x), slice(*part)) for x, part in zip(layers, pairwise(ends), strict=True)]
        self._adapters = [(adapter, part) for adapter, part in adapted if adapter is not None]
        self._sizes = sizes if any(p.requires_grad for p in own) else []
        """Rows of each layer's own weights; empty = these stand still."""
        trained = [p for adapter, _ in self._adapters for p in (adapter.a, adapter.b)]
        self.parameters: list[nn.Parameter] = (own if self._sizes else []) + trained
        """What has a gradient, in the order of `gradients`."""

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T + b, without a graph: `gradients` is the way back."""
        return F.linear(x.to(self.matrix.dtype), self.matrix, self.bias)

    def gradients(self, grad: Tensor, x: Tensor, kept_in: torch.dtype) -> list[Tensor]:
        """Those at `parameters`, in `kept_in`, so that micro-batches add up in it. `grad` is that at the product."""
        found: list[Tensor] = []
        if self._sizes:
            of_matrix = (grad.T @ x).to(kept_in)
            of_bias = (grad.new_ones(1, len(grad)) @ grad)[0].to(kept_in)
            found += [*of_matrix.split(self._sizes), *of_bias.split(self._sizes)]
        for adapter, part in self._adapters:
            own = grad[:, part]
            a, b = adapter.a.detach().to(grad.dtype), adapter.b.detach().to(grad.dtype)
            found.append(((own @ b).T @ x).to(kept_in).mul_(adapter.scale))
            found.append((own.T @ (x @ a.T)).to(kept_in).mul_(adapter.scale))
        return found


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

    def __init__(self, layers: Sequence[Any]) -> None:
        with torch.no_grad():
            matrix = _stacked([weight_of(x) for x in layers]).float()
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
