"""The forward pass of BERT and its kin over texts laid end to end. In: tokens. Out: a vector of each token.

transformers pads texts to a rectangle, casts every weight at each call and draws dropout one value at a time on one
thread. Here no layer but attention sees padding, weights are cast once for each change of theirs, and dropout comes
from bits drawn in bulk. It is the same function: tests hold its vectors and gradients to those of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_ir.encoders.tokens import Tokens

_FAMILY = ("BertModel", "RobertaModel", "XLMRobertaModel")
_SPREAD = 1.2  # texts whose lengths differ by no more than this factor are attended to in one rectangle


def can_pack(transformer: Any) -> bool:
    """Whether this is a Hugging Face model whose layers `token_vectors` knows, untouched by hooks or adapters."""
    if type(transformer).__name__ not in _FAMILY or transformer._compiled_call_impl is not None:
        return False
    if transformer.config.is_decoder or getattr(transformer.config, "add_cross_attention", False):
        return False
    known = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.Dropout)
    parts = [module for module in transformer.modules() if next(module.children(), None) is None]
    plain = all(type(part) in known for part in parts if next(part.parameters(recurse=False), None) is not None)
    return plain and not any(module._forward_hooks or module._forward_pre_hooks for module in transformer.modules())


def token_vectors(transformer: Any, weights: Sequence[LayerWeights], tokens: Tokens) -> Tensor:
    """(len(tokens.flat), D) float32: the last layer's vector of each token, text after text.

    Matrix products are in the precision of `weights`; what is added up along the layers, and normalised, is in float32.
    Dropout is drawn when the transformer is in training, seeded by torch's generator. Texts must be sorted by length.
    """
    boxes = _boxes(tokens.lengths)
    drop = _Dropout(transformer.training)
    x = _embedded(transformer.embeddings, tokens)
    x = drop(_normed(x, transformer.embeddings.LayerNorm), transformer.embeddings.dropout.p)
    for layer, linear in zip(transformer.encoder.layer, weights, strict=True):
        attention, self_attention = layer.attention, layer.attention.self
        qkv = linear.qkv(x)
        p = self_attention.dropout.p if transformer.training else 0.0
        mixed = _Attention.apply(qkv, boxes, self_attention.num_attention_heads, drop.bits, p)
        mixed = drop(linear.attention(mixed), attention.output.dropout.p)
        x = _normed(x + mixed, attention.output.LayerNorm)
        inner = layer.intermediate.intermediate_act_fn(linear.inner(x))
        x = _normed(x + drop(linear.outer(inner), layer.output.dropout.p), layer.output.LayerNorm)
    return x


def _normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _embedded(embeddings: Any, tokens: Tokens) -> Tensor:
    """Sum of each token's vectors of its piece, its position and the first segment. Each piece's row is looked up once:
    the gradient of a look-up is as large as the matrix, and is written once however many micro-batches there are."""
    pieces = embeddings.word_embeddings
    first = pieces.padding_idx + 1 if embeddings.position_embeddings.padding_idx is not None else 0
    lengths = tokens.lengths
    place = np.arange(len(tokens.flat)) - np.repeat(tokens.offsets[:-1], lengths)
    words = pieces(torch.from_numpy(tokens.flat).to(pieces.weight.device, torch.int64))
    positions = embeddings.position_embeddings.weight[first : first + int(lengths.max(initial=0))]
    fixed = positions + embeddings.token_type_embeddings.weight[0]
    return words + F.embedding(torch.from_numpy(place).to(words.device), fixed)


class _Dropout:
    """Dropout from bits that are drawn in bulk, seeded by torch's generator: one draw of it a pass."""

    def __init__(self, training: bool) -> None:
        self._training = training
        self._generator: np.random.SFC64 | None = None

    def bits(self, count: int) -> Tensor:
        """(count,) int16, uniform over all its values."""
        if self._generator is None:
            self._generator = np.random.SFC64(int(torch.randint(2**63 - 1, ())))
        return torch.from_numpy(self._generator.random_raw(-(-count // 4)).view(np.int16)[:count])

    def __call__(self, x: Tensor, p: float) -> Tensor:
        if not self._training or p == 0.0:
            return x
        return x * _kept(self.bits(x.numel()).view_as(x), p, x.dtype)


def _kept(bits: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """What dropout multiplies by: 0 with probability `p`, in steps of 2^-16, else the inverse of what is kept."""
    dropped = round(p * 65536)
    return (bits >= dropped - 32768).to(dtype).mul_(65536 / (65536 - dropped))


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


class _Joined:
    """Linear layers that read the same input, as one, with their weights in the precision they are used in."""

    def __init__(self, layers: Sequence[nn.Linear], dtype: torch.dtype) -> None:
        self._parameters = [layer.weight for layer in layers] + [layer.bias for layer in layers]
        with torch.no_grad():
            self._matrix = torch.cat([layer.weight for layer in layers]).to(dtype)
            self._bias = torch.cat([layer.bias for layer in layers]).to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self._matrix.dtype)
        if torch.is_grad_enabled():
            return _Linear.apply(x, self._matrix, self._bias, *self._parameters)
        return F.linear(x, self._matrix, self._bias)


@dataclass(frozen=True)
class LayerWeights:
    qkv: _Joined
    attention: _Joined
    inner: _Joined
    outer: _Joined


def weights_as_used(transformer: Any, dtype: torch.dtype) -> list[LayerWeights]:
    """Copies in `dtype` of the matrices of each layer, for `token_vectors`. They are those of now: a change of the
    parameters is not seen. Gradients go to the parameters."""
    layers = []
    for layer in transformer.encoder.layer:
        attention = layer.attention.self
        qkv = _Joined([attention.query, attention.key, attention.value], dtype)
        rest = (layer.attention.output.dense, layer.intermediate.dense, layer.output.dense)
        layers.append(LayerWeights(qkv, *(_Joined([linear], dtype) for linear in rest)))
    return layers


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
    """(texts, 1, length) bool: where there is no token."""


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
            places, mask = torch.from_numpy(np.flatnonzero(real)), torch.from_numpy(~real)[:, None]
        boxes.append(_Box(taken, end - start, length, places, mask))
        start, token = end, taken.stop
    return boxes


class _Attention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d)) V of each text alone. (T, 3D) -> (T, D). Probabilities are kept for the way back."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, boxes: list[_Box], heads: int, draw: Any, p: float) -> Tensor:
        width = qkv.shape[1] // 3
        out = qkv.new_empty(len(qkv), width)
        saved = []
        for box in boxes:
            q, k, v = _heads(_boxed(qkv, box), box, 3, heads)
            scores = torch.bmm(q, k.transpose(1, 2)).mul_((width // heads) ** -0.5)
            if box.mask is not None:
                scores.view(box.texts, heads, box.length, -1).masked_fill_(box.mask[:, None], -torch.inf)
            weights = torch.softmax(scores, dim=-1)
            kept = _kept(draw(weights.numel()).view_as(weights), p, weights.dtype) if p else None
            mixed = torch.bmm(weights if kept is None else weights * kept, v)
            rows = mixed.view(box.texts, heads, box.length, -1).transpose(1, 2).reshape(-1, width)
            out[box.tokens] = rows if box.places is None else rows[box.places]
            saved.append((weights, kept))
        ctx.save_for_backward(qkv)
        ctx.saved, ctx.boxes, ctx.heads = saved, boxes, heads
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (qkv,) = ctx.saved_tensors
        width = qkv.shape[1] // 3
        scale = (width // ctx.heads) ** -0.5
        out = torch.empty_like(qkv)
        for box, (weights, kept) in zip(ctx.boxes, ctx.saved, strict=True):
            q, k, v = _heads(_boxed(qkv, box), box, 3, ctx.heads)
            (g,) = _heads(_boxed(grad, box), box, 1, ctx.heads)
            of_weights = torch.bmm(g, v.transpose(1, 2))
            if kept is not None:
                of_weights.mul_(kept)
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(scale)
            dropped = weights if kept is None else weights * kept
            of_v = torch.bmm(dropped.transpose(1, 2), g)
            parts = [torch.bmm(of_scores, k), torch.bmm(of_scores.transpose(1, 2), q), of_v]
            rows = torch.stack([part.view(box.texts, ctx.heads, box.length, -1) for part in parts])
            rows = rows.permute(1, 3, 0, 2, 4).reshape(-1, 3 * width)
            out[box.tokens] = rows if box.places is None else rows[box.places]
        return out, None, None, None, None


def _boxed(rows: Tensor, box: _Box) -> Tensor:
    """A box's rows as its rectangle's, (texts * length, columns), zeros where there is no token."""
    if box.places is None:
        return rows[box.tokens]
    padded = rows.new_zeros(box.texts * box.length, rows.shape[1])
    return padded.index_copy_(0, box.places, rows[box.tokens])


def _heads(rows: Tensor, box: _Box, matrices: int, heads: int) -> tuple[Tensor, ...]:
    """Each of the matrices that stand side by side in `rows`, as (texts * heads, length, d)."""
    parts = rows.view(box.texts, box.length, matrices, heads, -1).permute(2, 0, 3, 1, 4)
    return parts.reshape(matrices, box.texts * heads, box.length, -1).unbind()
