"""Attention of each text to itself alone, over texts laid end to end. In: queries, keys, values. Out: what they mix to.

A CPU multiplies rectangles of texts of like lengths. A GPU has a kernel that takes them as they lie. Both are written
with their gradient, which a layer calls on its own way back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hybrid_ir.encoders.packed.dropout import Dropout, scale_of
from hybrid_ir.encoders.packed.rectangles import Rectangle, Rectangles
from hybrid_ir.encoders.tokens import Tokens
from hybrid_ir.encoders.transfer import to_device


class Attention(Protocol):
    """softmax(Q K^T / sqrt(d)) V of each text alone, with dropout of the softmax with probability `p`."""

    def there(self, qkv: Tensor, drop: Dropout, p: float) -> tuple[Tensor, Any]:
        """(T, 3D) -> (T, D), and what the way back needs."""
        ...

    def back(self, grad: Tensor, p: float, had: Any) -> Tensor:
        """The gradient at queries, keys and values. (T, D) -> (T, 3D)."""
        ...


def attention_of(tokens: Tokens, heads: int, device: torch.device) -> Attention:
    """That of these texts, which must be sorted by length, on this device."""
    return InRectangles(tokens.lengths, heads) if device.type == "cpu" else Flash(tokens, heads, device)


@dataclass(frozen=True)
class Attended:
    """What the way back needs: rows and scores of all rectangles."""

    rows: Tensor
    """Of queries, keys and values."""
    weights: Tensor
    """The softmax."""
    left: Tensor
    """Of the weights, after dropout."""
    kept: Tensor | None
    """1, and 0 where dropout dropped; None = it was not drawn."""


class InRectangles:
    """On a CPU."""

    def __init__(self, lengths: np.ndarray, heads: int) -> None:
        self._rectangles = Rectangles(lengths, heads)

    def there(self, qkv: Tensor, drop: Dropout, p: float) -> tuple[Tensor, Attended]:
        rectangles = self._rectangles
        rows = rectangles.spread(qkv, 3)
        weights = rows.new_empty(rectangles.scores)
        for each in rectangles.all:
            q, k, _ = each.of(rows, 3)
            scores = _scores(q, k, each)
            torch.softmax(scores, dim=-1, out=each.scores_of(weights))
        kept = drop.kept(weights, p)
        left = weights if kept is None else weights * kept
        out = rows.new_empty(rectangles.rows, rows.shape[1])
        for each in rectangles.all:
            _times(each.scores_of(left), each.of(rows, 3)[2], scale_of(p), each.of(out, 1)[0])
        return rectangles.gathered(out, 1), Attended(rows, weights, left, kept)

    def back(self, grad: Tensor, p: float, had: Attended) -> Tensor:
        rectangles = self._rectangles
        rows, scale, root = rectangles.spread(grad, 1), scale_of(p), had.rows.shape[1] ** -0.5
        if rectangles.filled is not None:  # where there is no token there is no gradient
            rows.index_fill_(0, rectangles.filled, 0)
        out, of_weights = torch.empty_like(had.rows), torch.empty_like(had.weights)
        for each in rectangles.all:
            (g,), v = each.of(rows, 1), each.of(had.rows, 3)[2]
            _times(each.scores_of(had.left).transpose(1, 2), g, scale, each.of(out, 3)[2])
            _times(g, v.transpose(1, 2), scale, each.scores_of(of_weights))
        if had.kept is not None:
            of_weights.mul_(had.kept)
        for each in rectangles.all:
            (q, k, _), (of_q, of_k, _) = each.of(had.rows, 3), each.of(out, 3)
            weights = each.scores_of(had.weights)
            of_scores = torch.ops.aten._softmax_backward_data(each.scores_of(of_weights), weights, -1, weights.dtype)
            _times(of_scores, k, root, of_q)
            _times(of_scores.transpose(1, 2), q, root, of_k)
        return rectangles.gathered(out, 3)


def _scores(q: Tensor, k: Tensor, rectangle: Rectangle) -> Tensor:
    mask, scale = rectangle.mask, q.shape[-1] ** -0.5
    if mask is None:
        return torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale)
    return torch.baddbmm(mask.to(q.dtype), q, k.transpose(1, 2), alpha=scale)


def _times(a: Tensor, b: Tensor, scale: float, out: Tensor) -> None:
    """out = scale * a b, matrix by matrix."""
    torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)


def has_flash(device: torch.device, dtype: torch.dtype | None, head_size: int) -> bool:
    """Whether torch's FlashAttention (arXiv 2307.08691) takes texts of any lengths here: NVIDIA's GPUs from Ampere on,
    in half precision."""
    if device.type != "cuda" or torch.version.cuda is None or dtype not in (torch.bfloat16, torch.float16):
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0) and head_size % 8 == 0 and head_size <= 256


class Flash:
    """On a GPU, by torch's FlashAttention: what torch.nn.attention.varlen calls, which has no dropout."""

    def __init__(self, tokens: Tokens, heads: int, device: torch.device) -> None:
        self._heads, self._longest = heads, int(tokens.lengths.max(initial=0))
        self._ends = to_device(tokens.offsets.astype(np.int32), device)  # where each text ends, after a 0

    def there(self, qkv: Tensor, drop: Dropout, p: float) -> tuple[Tensor, tuple[Tensor, ...]]:
        q, k, v = qkv.view(len(qkv), 3, self._heads, -1).unbind(1)
        p = p if drop.draws else 0.0
        made = torch.ops.aten._flash_attention_forward(q, k, v, *self._texts, p, False, False)
        return made[0].flatten(1), (qkv, *made[:4])

    def back(self, grad: Tensor, p: float, had: tuple[Tensor, ...]) -> Tensor:
        qkv, mixed, sums, state, unused = had
        q, k, v = qkv.view(len(qkv), 3, self._heads, -1).unbind(1)
        of_each = torch.ops.aten._flash_attention_backward(
            grad.view(mixed.shape), q, k, v, mixed, sums, *self._texts, p, False, state, unused
        )
        return torch.stack(of_each, 1).view(qkv.shape)

    @property
    def _texts(self) -> tuple[Tensor, Tensor, int, int]:
        return self._ends, self._ends, self._longest, self._longest
