"""Vectors of tokens, layer by layer. In: a Hugging Face transformer, its weights as used, tokens. Out: vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_ir.encoders.packed.adapted import is_linear
from hybrid_ir.encoders.packed.attention import attention_of, has_flash
from hybrid_ir.encoders.packed.dropout import Dropout
from hybrid_ir.encoders.packed.halves import in_halves, middle_of
from hybrid_ir.encoders.packed.layer import Layer, pass_through
from hybrid_ir.encoders.packed.linear import LayerWeights
from hybrid_ir.encoders.tokens import Tokens
from hybrid_ir.encoders.transfer import to_device

_FAMILY = ("BertModel", "RobertaModel", "XLMRobertaModel")


def can_pack(transformer: Any, dtype: torch.dtype | None) -> bool:
    """Whether `token_vectors` knows this Hugging Face model's layers, untouched by hooks, and by adapters but
    LoRA's, and has attention for the device that it is on, with weights in `dtype` (None = their own)."""
    if type(transformer).__name__ not in _FAMILY or transformer._compiled_call_impl is not None:
        return False
    if not type(transformer).__module__.startswith("transformers.models."):  # a model's own code may use these names
        return False
    if transformer.config.is_decoder or getattr(transformer.config, "add_cross_attention", False):
        return False
    config, device = transformer.config, transformer.device
    if device.type != "cpu" and not has_flash(device, dtype, config.hidden_size // config.num_attention_heads):
        return False
    embeddings = transformer.embeddings
    tables = [embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings]
    linear, norms = [], [embeddings.LayerNorm]
    for layer in transformer.encoder.layer:
        attention = layer.attention.self
        linear += [attention.query, attention.key, attention.value]
        linear += [layer.attention.output.dense, layer.intermediate.dense, layer.output.dense]
        norms += [layer.attention.output.LayerNorm, layer.output.LayerNorm]
    for modules, plain in ((tables, nn.Embedding), (norms, nn.LayerNorm)):
        if any(type(module) is not plain for module in modules):
            return False
    if not all(map(is_linear, linear)):
        return False
    return not any(module._forward_hooks or module._forward_pre_hooks for module in transformer.modules())


def token_vectors(
    transformer: Any, weights: Sequence[LayerWeights], tokens: Tokens, *, recompute: bool = False
) -> Tensor:
    """(len(tokens.flat), D) float32: the last layer's vector of each token, text after text.

    Matrix products are in the precision of `weights`; what is added up along the layers, and normalised, is in float32.
    Dropout is drawn when the transformer is in training, seeded by torch's generator. Texts must be sorted by length.
    `recompute`: layers are computed once more on the way back, and keep nothing for it but their inputs.
    """
    x = _embedded(transformer.embeddings, tokens)
    x = _normed(x, transformer.embeddings.LayerNorm)
    drop = Dropout(transformer.training, x.device)
    x = drop.add(torch.zeros(()), x, transformer.embeddings.dropout.p)
    layers = [Layer.of(*pair) for pair in zip(transformer.encoder.layer, weights, strict=True)]
    through = partial(_through, layers, transformer.config.num_attention_heads, recompute)
    middle = middle_of(tokens.lengths, x.device)
    if middle is None:
        return through(tokens, drop, x)
    parts = (tokens[:middle], tokens[middle:])
    halves = [partial(through, part, Dropout(transformer.training, x.device)) for part in parts]
    return in_halves(x, len(parts[0].flat), halves, [p for layer in layers for p in layer.parameters])


def _through(layers: Sequence[Layer], heads: int, recompute: bool, tokens: Tokens, drop: Dropout, x: Tensor) -> Tensor:
    attention = attention_of(tokens, heads, x.device)
    for layer in layers:
        x = pass_through(x, layer, attention, drop, recompute=recompute)
    return x


def _normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _embedded(embeddings: Any, tokens: Tokens) -> Tensor:
    """Sum of each token's vectors of its piece, its position and the first segment."""
    pieces, padding = embeddings.word_embeddings, embeddings.position_embeddings.padding_idx
    first = 0 if padding is None else padding + 1  # RoBERTa's and XLM-R's positions start behind the pad id
    lengths, device = tokens.lengths, pieces.weight.device
    place = to_device(np.arange(len(tokens.flat)) - np.repeat(tokens.offsets[:-1], lengths), device)
    words = pieces(to_device(tokens.flat.astype(np.int64), device))
    positions = embeddings.position_embeddings.weight[first : first + int(lengths.max(initial=0))]
    fixed = positions + embeddings.token_type_embeddings.weight[0]
    return words + (F.embedding(place, fixed) if device.type == "cpu" else _FewRows.apply(fixed, place))


class _FewRows(torch.autograd.Function):
    """Rows of a small matrix, each looked up many times, on a GPU. The gradient of torch's own look-up counts how often
    each row was asked for, and has the host wait for that; here it is a product."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.count = len(matrix)
        return matrix.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (rows,) = ctx.saved_tensors
        which = torch.arange(ctx.count, device=rows.device)[:, None] == rows
        return which.to(grad.dtype) @ grad, None
