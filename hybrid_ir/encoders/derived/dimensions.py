"""An encoder of shorter vectors. In: an encoder, a number. Out: the same encoder, of so many of a vector's values."""

from __future__ import annotations

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from hybrid_ir.types import InputError


def keep_dimensions(model: SentenceTransformer, dimension: int) -> None:
    """Have the model give the first `dimension` values of its vectors, brought to unit length, in place.

    It is a dense layer without an activation, which every server of sentence-transformers' folders applies. Raises
    InputError for a dimension that is not below the encoder's own.
    """
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
