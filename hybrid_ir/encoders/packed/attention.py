"""Attention of each text to itself alone, over texts laid end to end. In: queries, keys, values. Out: what they mix to.

A CPU multiplies rectangles of texts of like lengths. A GPU has a kernel that takes them as they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybrid_ir.encoders.packed.dropout import Dropout, kept_of, scale_of
from hybrid_ir.encoders.transfer import to_device

_SPREAD = 1.2  # texts whose lengths differ by no more than this factor are attended to in one rectangle

Attention = Callable[[Tensor, int, float], Tensor]
"""(T, 3D) queries, keys and values of each token side by side, heads, chance of dropout -> (T, D)."""


def attention_over(lengths: np.ndarray, device: torch.device, drop: Dropout) -> Attention:
    """The attention of texts of these lengths, sorted; in training with dropout drawn by `drop`."""
    if device.type == "cpu":
        boxes = _boxes(lengths)
        return lambda qkv, heads, p: _InBoxes.apply(qkv, boxes, heads, drop.bits, p)
    ends = to_device(np.cumsum([0, *lengths], dtype=np.int32), device)
    longest = int(lengths.max())
    return lambda qkv, heads, p: _flash(qkv, ends, longest, heads, p)


def has_flash(device: torch.device, dtype: torch.dtype | None, head_size: int) -> bool:
    """Whether torch's FlashAttention (arXiv 2307.08691) takes texts of any lengths here: NVIDIA's GPUs from Ampere on,
    in half precision."""
    if device.type != "cuda" or torch.version.cuda is None or dtype not in (torch.bfloat16, torch.float16):
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0) and head_size % 8 == 0 and head_size <= 256


def _flash(qkv: Tensor, ends: Tensor, longest: int, heads: int, p: float) -> Tensor:
    q, k, v = qkv.view(len(qkv), 3, heads, -1).unbind(1)
    # What torch.nn.attention.varlen calls, which has no dropout.
    made = torch.ops.aten._flash_attention_forward(q, k, v, ends, ends, longest, longest, p, False, False)
    return made[0].flatten(1)


@dataclass(frozen=True)
class _Box:
    """Texts of like lengths, which attention reads as a rectangle."""

    tokens: slice
    """Where their tokens stand."""
    texts: int
    length: int
    """Of the longest."""
    places: Tensor | None
    """Where each token stands in the rectangle; None = all are of that length."""
    mask: Tensor | None
    """(texts, 1, 1, length): what is added to scores, -inf where there is no token. None = all are of that length."""


def _boxes(lengths: np.ndarray) -> list[_Box]:
    """Of texts that are sorted by length."""
    if np.any(lengths[1:] < lengths[:-1]):
        raise ValueError("texts must be sorted by length")
    boxes, start, token = [], 0, 0
    while start < len(lengths):
        end = int(np.searchsorted(lengths, _SPREAD * lengths[start], side="right"))
        mine, length = lengths[start:end], int(lengths[end - 1])
        taken = slice(token, token + int(mine.sum()))
        places = mask = None
        if mine[0] != length:
            real = np.arange(length) < mine[:, None]
            places, mask = torch.from_numpy(np.flatnonzero(real)), torch.zeros(real.shape)
            mask = mask.masked_fill_(torch.from_numpy(~real), -torch.inf)[:, None, None]
        boxes.append(_Box(taken, end - start, length, places, mask))
        start, token = end, taken.stop
    return boxes


class _InBoxes(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d)) V of each text alone. (T, 3D) -> (T, D). Probabilities are kept for the way back.

    What only scales is done where a matrix is copied anyway: 1/sqrt(d) with Q, dropout's 1/(1-p) with V.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, boxes: list[_Box], heads: int, draw: Any, p: float) -> Tensor:
        width = qkv.shape[1] // 3
        ctx.heads, ctx.boxes, ctx.saved = heads, boxes, []
        ctx.scales = (width // heads) ** -0.5, 1.0, scale_of(p)
        out = qkv.new_empty(len(qkv), width)
        for box in boxes:
            q, k, v = _heads(_boxed(qkv, box), box, heads, ctx.scales)
            scores = torch.bmm(q, k.transpose(1, 2))
            if box.mask is not None:
                scores.view(box.texts, heads, box.length, -1).add_(box.mask.to(scores.dtype))
            weights = torch.softmax(scores, dim=-1)
            kept = kept_of(draw(weights.numel()).view_as(weights), p, weights.dtype) if p else None
            left = weights if kept is None else weights * kept
            _put(out, box, [torch.bmm(left, v)], (1.0,))
            ctx.saved.append((q, k, v, weights, kept, left))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        out = grad.new_empty(len(grad), 3 * grad.shape[1])
        for box, (q, k, v, weights, kept, left) in zip(ctx.boxes, ctx.saved, strict=True):
            (g,) = _heads(_boxed(grad, box), box, ctx.heads, (1.0,))
            of_weights = torch.bmm(g, v.transpose(1, 2))
            if kept is not None:
                of_weights.mul_(kept)
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_q, of_k = torch.bmm(of_scores, k), torch.bmm(of_scores.transpose(1, 2), q)
            _put(out, box, [of_q, of_k, torch.bmm(left.transpose(1, 2), g)], ctx.scales)
        return out, None, None, None, None


def _boxed(rows: Tensor, box: _Box) -> Tensor:
    """A box's rows as its rectangle's, (texts * length, columns), zeros where there is no token."""
    if box.places is None:
        return rows[box.tokens]
    padded = rows.new_zeros(box.texts * box.length, rows.shape[1])
    return padded.index_copy_(0, box.places, rows[box.tokens])


def _heads(rows: Tensor, box: _Box, heads: int, scales: Sequence[float]) -> list[Tensor]:
    """Each of the matrices that stand side by side in `rows`, times its scale, as (texts * heads, length, d)."""
    parts = rows.view(box.texts, box.length, len(scales), heads, -1).permute(2, 0, 3, 1, 4)
    made = rows.new_empty(len(scales), *parts.shape[1:])
    for part, into, scale in zip(parts, made, scales, strict=True):
        if scale == 1.0:
            into.copy_(part)
        else:
            torch.mul(part, scale, out=into)
    return [each.view(box.texts * heads, box.length, -1) for each in made]


def _put(out: Tensor, box: _Box, matrices: Sequence[Tensor], scales: Sequence[float]) -> None:
    """The reverse of `_boxed` and `_heads`: write what each of the matrices holds of tokens beside one another."""
    places = box.places
    rows = out[box.tokens] if places is None else out.new_empty(box.texts * box.length, out.shape[1])
    parts = rows.view(box.texts, box.length, len(scales), -1, matrices[0].shape[-1]).permute(2, 0, 3, 1, 4)
    for part, matrix, scale in zip(parts, matrices, scales, strict=True):
        if scale == 1.0:
            part.copy_(matrix.view(part.shape))
        else:
            torch.mul(matrix.view(part.shape), scale, out=part)
    if places is not None:
        torch.index_select(rows, 0, places, out=out[box.tokens])
