"""A shallower encoder. In: an encoder, a number of layers. Out: the same encoder with so many, evenly spaced."""

from __future__ import annotations

from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from torch import nn

from hybrid_ir.types import InputError


def keep_layers(model: SentenceTransformer, layers: int) -> None:
    """Keep `layers` of the transformer's layers, in place: the first, the last, and those evenly between them.

    Raises InputError for more layers than there are, and for a transformer whose layers are not one list.
    """
    transformer: Any = model[0]
    parent, name = list_of_layers(transformer.model)
    config, there = transformer.config, len(getattr(parent, name))
    if layers > there:
        raise InputError(f"encoder.layers={layers}, and the encoder has {there}; set at most that")
    kept = np.linspace(0, there - 1, layers).round().astype(int)
    setattr(parent, name, nn.ModuleList(getattr(parent, name)[n] for n in kept))
    config.num_hidden_layers = layers
    if types := getattr(config, "layer_types", None):  # which layers attend near by and which to the whole text
        config.layer_types = [types[n] for n in kept]


def list_of_layers(transformer: Any) -> tuple[nn.Module, str]:
    """The module that has the layers of a Hugging Face model, and the name of their list in it.

    Raises InputError for one whose layers are not one list.
    """
    there = getattr(transformer.config, "num_hidden_layers", 0)
    lists = [
        (parent, name)
        for parent in transformer.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == there
    ]
    if len(lists) != 1:
        raise InputError(
            f"the layers of a {type(transformer).__name__} cannot be told apart ({len(lists)} lists of {there}); "
            "leave encoder.layers at null, and name the layers of encoder.lora.targets"
        )
    return lists[0]
