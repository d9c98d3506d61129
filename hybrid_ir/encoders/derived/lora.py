"""An encoder with a low-rank adapter (LoRA, arXiv 2106.09685). In: an encoder. Out: the same, little of it trained.

PEFT puts the adapter into the transformer's linear layers. All other weights stand still. What is saved is the encoder
with the adapter folded in, which everything opens, and beside it the adapter alone, in PEFT's own format:

adapter/adapter_config.json         which layers it is for, and of which encoder
adapter/adapter_model.safetensors   A and B of each of them
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import nn

from hybrid_ir.encoders.derived.layers import list_of_layers
from hybrid_ir.encoders.packed.adapted import Adapter, adapter_of
from hybrid_ir.types import InputError

ADAPTER = "adapter"
"""Folder of the adapter in that of the encoder."""
_WEIGHTS = "adapter_model.safetensors"
_OF_PEFT = "base_model.model."  # before the name of a layer, as PEFT's own models have it


def check_peft() -> None:
    """Raises InputError where PEFT is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise InputError(
            "encoder.lora needs the package peft, which is not installed; run: pip install 'hybrid-ir[lora]'"
        )


def add_lora(
    model: SentenceTransformer,
    *,
    base: str,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: Sequence[str] | None = None,
) -> list[str]:
    """Put an adapter that changes nothing yet into the model, in place, and let nothing else be trained. A is drawn
    from torch's generator.

    `targets` are names of linear layers, or what these end in behind a dot; None = all within the transformer's layers.
    Returns them. `base` is what the adapter will say that it belongs to. Raises InputError for a target that is no
    layer's name, and without PEFT.
    """
    check_peft()
    from peft import LoraConfig, TaskType, inject_adapter_in_model

    transformer: Any = model[0]
    chosen = _targets(transformer.model, targets)
    model.requires_grad_(False)
    name, _, revision = base.partition("@") if not Path(base).exists() else (base, "", "")
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        base_model_name_or_path=name,
        revision=revision or None,
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  (it is divided by the rank, and need not be whole)
        lora_dropout=dropout,
        target_modules=chosen,
    )
    inject_adapter_in_model(config, transformer.model)
    return chosen


def has_lora(model: SentenceTransformer) -> bool:
    return any(True for _ in _adapters(model))


@contextmanager
def merged(model: SentenceTransformer) -> Iterator[None]:
    """Context in which the adapter is folded into the weights, and the layers are plain ones. Behind it the weights are
    those of before, to the bit: they are put back, and nothing is subtracted."""
    transformer: Any = model[0]
    folded = []
    try:
        for name, layer, adapter in list(_adapters(model)):
            parent, _, own = name.rpartition(".")
            before = layer.base_layer.weight.data
            folded.append((transformer.model.get_submodule(parent), own, layer, before))
            layer.base_layer.weight.data = adapter.added_to(before)
            setattr(folded[-1][0], own, layer.base_layer)
        yield
    finally:
        for parent, own, layer, before in folded:
            layer.base_layer.weight.data = before
            setattr(parent, own, layer)


def save_adapter(model: SentenceTransformer, folder: Path) -> None:
    """Write the adapter alone to `folder`, as PeftModel.save_pretrained would."""
    folder.mkdir(parents=True, exist_ok=True)
    transformer: Any = model[0]
    (config,) = transformer.model.peft_config.values()
    said = config.to_dict() | {"inference_mode": True, "target_modules": sorted(config.target_modules)}
    text = json.dumps(said, indent=2, sort_keys=True, default=_plain)
    (folder / "adapter_config.json").write_text(f"{text}\n", encoding="utf-8")
    save_file(_values(model), folder / _WEIGHTS, metadata={"format": "pt"})


def load_adapter(model: SentenceTransformer, folder: Path) -> None:
    """Give the model's adapter the values of the one in `folder`, which `save_adapter` wrote. Raises InputError where
    that is one of other layers or of another rank."""
    found, own = load_file(folder / _WEIGHTS), _values(model)
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in own.items()}:
        raise InputError(f"{folder} is an adapter of other layers or of another rank than encoder.lora asks for")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(found[name])


def _values(model: SentenceTransformer) -> dict[str, torch.Tensor]:
    """The adapter's tensors, by the names that PEFT gives them in a file."""
    return {
        f"{_OF_PEFT}{name}.lora_{part}.weight": value.detach()
        for name, _, adapter in _adapters(model)
        for part, value in (("A", adapter.a), ("B", adapter.b))
    }


def _adapters(model: SentenceTransformer) -> Iterator[tuple[str, Any, Adapter]]:
    """Name in the transformer, layer and adapter."""
    transformer: Any = getattr(model[0], "model", None)  # an ONNX session has none
    for name, layer in transformer.named_modules() if transformer is not None else ():
        if (adapter := adapter_of(layer)) is not None:
            yield name, layer, adapter


def _targets(transformer: Any, asked: Sequence[str] | None) -> list[str]:
    if asked is None:
        layers = getattr(*list_of_layers(transformer))
        return sorted({name for layer in layers for name, module in layer.named_modules() if _is_linear(module)})
    names = [name for name, module in transformer.named_modules() if _is_linear(module)]
    for target in asked:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = sorted({name.rpartition(".")[2] for name in names})
            raise InputError(
                f"encoder.lora.targets has {target!r}, which is no linear layer of a {type(transformer).__name__}; "
                f"there are {', '.join(known)}; name some of these, or set it to null for all of them"
            )
    return sorted(asked)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _plain(value: Any) -> Any:
    """Sets and the like, which JSON has not."""
    return sorted(value) if isinstance(value, set) else str(value)
