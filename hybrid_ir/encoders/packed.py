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
    embeddings = transformer.embeddings
    tables = [embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings]
    linear, norms = [], [embeddings.LayerNorm]
    for layer in transformer.encoder.layer:
        attention = layer.attention.self
        linear += [attention.query, attention.key, attention.value]
        linear += [layer.attention.output.dense, layer.intermediate.dense, layer.output.dense]
        norms += [layer.attention.output.LayerNorm, layer.output.LayerNorm]
    for modules, plain in ((tables, nn.Embedding), (linear, nn.Linear), (norms, nn.LayerNorm)):
        if any(type(module) is not plain for module in modules):
            return False
    return not any(module._forward_hooks or module._forward_pre_hooks for module in transformer.modules())


def token_vectors(transformer: Any, weights: Sequence[LayerWeights], tokens: Tokens) -> Tensor:
    """(len(tokens.flat), D) float32: the last layer's vector of each token, text after text.

    Matrix products are in the precision of `weights`; what is added up along the layers, and normalised, is in float32.
    Dropout is drawn when the transformer is in training, seeded by torch's generator. Texts must be sorted by length.
    """
    boxes = _boxes(tokens.lengths)
    drop = _Dropout(transformer.training)
    x = _embedded(transformer.embeddings, tokens)
    x = _normed(x, transformer.embeddings.LayerNorm)
    x = drop.add(torch.zeros(()), x, transformer.embeddings.dropout.p)
    for layer, linear in zip(transformer.encoder.layer, weights, strict=True):
        attention, self_attention = layer.attention, layer.attention.self
        qkv = linear.qkv(x)
        p = self_attention.dropout.p if transformer.training else 0.0
        mixed = _Attention.apply(qkv, boxes, self_attention.num_attention_heads, drop.bits, p)
        x = drop.add(x, linear.attention(mixed), attention.output.dropout.p)
        x = _normed(x, attention.output.LayerNorm)
        inner = layer.intermediate.intermediate_act_fn(linear.inner(x))
        x = drop.add(x, linear.outer(inner), layer.output.dropout.p)
        x = _normed(x, layer.output.LayerNorm)
    return x


def _normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _embedded(embeddings: Any, tokens: Tokens) -> Tensor:
    """Sum of each token's vectors of its piece, its position and the first segment."""
    pieces, padding = embeddings.word_embeddings, embeddings.position_embeddings.padding_idx
    first = 0 if padding is None else padding + 1  # RoBERTa's and XLM-R's positions start behind the pad id
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

    def add(self, to: Tensor, x: Tensor, p: float) -> Tensor:
        """`to` + what dropout leaves of `x`."""
        if not self._training or p == 0.0:
            return to + x
        return _AddKept.apply(to, x, _kept(self.bits(x.numel()).view_as(x), p, x.dtype), _scale(p))


def _kept(bits: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """0 where dropout drops, with probability `p` in steps of 2^-16, and 1 elsewhere. (Products with these are twelve
    times as fast as `masked_fill`, and bulk bits ten times as fast as `bernoulli_`: torch 2.13 on a CPU.)"""
    return torch.ge(bits, round(p * 65536) - 32768, out=torch.empty(bits.shape, dtype=dtype))


def _scale(p: float) -> float:
    """What dropout multiplies the rest by."""
    return 65536 / (65536 - round(p * 65536))


class _AddKept(torch.autograd.Function):
    """to + scale * kept * x."""

    @staticmethod
    def forward(ctx: Any, to: Tensor, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return torch.add(to, x * kept, alpha=scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (kept,) = ctx.saved_tensors
        of_x = torch.mul(grad, ctx.scale, out=torch.empty(grad.shape, dtype=kept.dtype)).mul_(kept)
        return grad, of_x, None, None


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

    def __init__(self, layers: Sequence[nn.Linear], dtype: torch.dtype | None) -> None:
        self._parameters = [layer.weight for layer in layers] + [layer.bias for layer in layers]
        with torch.no_grad():
            matrix, bias = _stacked([x.weight for x in layers]), _stacked([x.bias for x in layers])
            self._matrix, self._bias = matrix.to(dtype or matrix.dtype), bias.to(dtype or bias.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self._matrix.dtype)
        if torch.is_grad_enabled():
            return _Linear.apply(x, self._matrix, self._bias, *self._parameters)
        return F.linear(x, self._matrix, self._bias)


def _stacked(parameters: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parameters)) if len(parameters) > 1 else parameters[0].detach()


@dataclass(frozen=True)
class LayerWeights:
    qkv: _Joined
    attention: _Joined
    inner: _Joined
    outer: _Joined


def weights_as_used(transformer: Any, dtype: torch.dtype | None = None) -> list[LayerWeights]:
    """Copies in `dtype` (None = their own) of the matrices of each layer, for `token_vectors`. They are those of now: a
    change of the parameters is not seen. Gradients go to the parameters."""
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


class _Attention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d)) V of each text alone. (T, 3D) -> (T, D). Probabilities are kept for the way back.

    What only scales is done where a matrix is copied anyway: 1/sqrt(d) with Q, dropout's 1/(1-p) with V.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, boxes: list[_Box], heads: int, draw: Any, p: float) -> Tensor:
        width = qkv.shape[1] // 3
        ctx.heads, ctx.boxes, ctx.saved = heads, boxes, []
        ctx.scales = (width // heads) ** -0.5, 1.0, _scale(p)
        out = qkv.new_empty(len(qkv), width)
        for box in boxes:
            q, k, v = _heads(_boxed(qkv, box), box, heads, ctx.scales)
            scores = torch.bmm(q, k.transpose(1, 2))
            if box.mask is not None:
                scores.view(box.texts, heads, box.length, -1).add_(box.mask.to(scores.dtype))
            weights = torch.softmax(scores, dim=-1)
            kept = _kept(draw(weights.numel()).view_as(weights), p, weights.dtype) if p else None
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
