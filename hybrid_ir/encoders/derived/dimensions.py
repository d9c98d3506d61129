"""Shorter vectors. In: an encoder, a number. Out: the same encoder, of so many of a vector's values.

Which numbers an encoder was trained for it says itself: `matryoshka_dimensions` in its config.json, as for vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from hybrid_ir.types import InputError


def keep_dimensions(model: SentenceTransformer, dimension: int) -> None:
    """Have the model give the first `dimension` values of its vectors, brought to unit length, in place.

    It is a dense layer without an activation, which every server of sentence-transformers' folders applies. Raises
    InputError for a dimension that is not below the encoder's own.
    """
    shorter = [each for each in declared_dimensions(model) if each < dimension]
    longest = model.get_embedding_dimension()
    assert longest is not None
    if not 1 <= dimension < longest:
        raise InputError(
            f"a vector of this encoder has {longest} values, got --dimension {dimension}; give 1 or more "
            f"and less than {longest}"
        )
    layer = Dense(
        in_features=longest,
        out_features=dimension,
        bias=False,
        activation_function=torch.nn.Identity(),
        init_weight=torch.eye(dimension, longest),
    ).to(model.device)
    model.append(layer)
    model.append(Normalize())
    declare_dimensions(model, shorter)


def declare_dimensions(model: SentenceTransformer, dimensions: Sequence[int]) -> None:
    """Have the model say that the first so many values of its vectors can stand for them, for each of `dimensions`; or
    for none, where it said so before it was trained otherwise."""
    config: Any = getattr(model[0], "config", None)
    if dimensions:
        config.matryoshka_dimensions = sorted(dimensions, reverse=True)
    elif hasattr(config, "matryoshka_dimensions"):
        del config.matryoshka_dimensions


def declared_dimensions(model: SentenceTransformer) -> list[int]:
    """What the model says so of, largest first: whole numbers below its own dimension. [] if it says nothing."""
    said = getattr(getattr(model[0], "config", None), "matryoshka_dimensions", None)
    longest = model.get_embedding_dimension() or 0
    given = said if isinstance(said, (list, tuple)) else ()
    return sorted({each for each in given if type(each) is int and 0 < each < longest}, reverse=True)
