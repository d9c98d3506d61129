"""The encoder that a run starts from. In: a preset, a folder or a name. Out: what workers on any node can load."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from hybrid_ir.config import Experiment
from hybrid_ir.data import Store
from hybrid_ir.encoders import (
    PRESET_TOKENS,
    PRESETS,
    TextReader,
    carried_code,
    create_encoder,
    dropout_of,
    hash_of,
    keep_layers,
    save_encoder,
    trim_vocabulary,
)
from hybrid_ir.storage import absolute, is_uri
from hybrid_ir.training.checkpoint import apply_lora, load_model
from hybrid_ir.types import InputError

TOKENIZER_TEXTS = 200_000


def initial_model(experiment: Experiment, store: Store, run: Path, put_back: Callable[[], None]) -> str:
    """Folder, URI or name of the encoder to start from. What is made for this run (a preset, an encoder that is made
    smaller) is made once and kept in RUN/initial.

    `put_back` has what `run` holds written to where it belongs. Raises InputError for an encoder that cannot be made.
    """
    section = experiment.encoder
    smaller = section.trim_vocabulary or section.layers is not None
    if section.name in PRESETS and smaller:
        raise InputError(
            f"encoder.trim_vocabulary and encoder.layers are for pretrained encoders; {section.name} is made small, "
            "with encoder.vocabulary entries from the store's texts"
        )
    if section.name not in PRESETS and not smaller:
        return absolute(section.name) if Path(section.name).exists() else section.name
    folder = run / "initial"
    if not (folder / "config.json").is_file():
        partial = run / ".initial.partial"
        shutil.rmtree(partial, ignore_errors=True)
        if section.name in PRESETS:
            create_encoder(
                section.name,
                _sample_texts(store, TOKENIZER_TEXTS),
                partial,
                vocabulary=section.vocabulary,
                max_tokens=section.max_tokens or PRESET_TOKENS,
                seed=experiment.seed,
            )
        else:
            model = load_model(experiment, section.name, torch.device("cpu"))
            if section.layers is not None:
                keep_layers(model, section.layers)
            if section.trim_vocabulary:
                trim_vocabulary(model, store.texts())
            save_encoder(model, partial)
        os.replace(partial, folder)
    if is_uri(experiment.out):
        put_back()
        return f"{experiment.out}/initial"
    return absolute(str(folder))


def describe_encoder(experiment: Experiment, model: SentenceTransformer) -> dict[str, Any]:
    """What was chosen where a setting of `encoder` is null, for the manifest, the card and the console.

    Where `encoder.lora` asks for one, the model gets its adapter. Raises InputError for an encoder that the training
    cannot use.
    """
    lora = None
    if experiment.encoder.lora.rank is not None:
        whole = sum(p.numel() for p in model.parameters())
        lora = {"targets": apply_lora(experiment, model, experiment.encoder.name), "of": whole}
        lora["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    section, reader, dropout = experiment.encoder, TextReader.of(model), dropout_of(model)
    for source, task in experiment.batch.tasks.items():
        reader.check_task(task, f"batch.tasks.{source}")
    if experiment.evaluate.task is not None:
        reader.check_task(experiment.evaluate.task, "evaluate.task")
    if experiment.batch.positives == "same_text" and not dropout:
        raise InputError(
            f"batch.positives=same_text tells the two vectors of a text apart by dropout alone, and {section.name} has "
            "none: both would be the same; set encoder.dropout, for example to 0.1"
        )
    longest = model.get_embedding_dimension()
    assert longest is not None
    if long := [dimension for dimension in experiment.loss.dimensions if dimension >= longest]:
        raise InputError(
            f"loss.dimensions has {long}, and a vector of {section.name} has {longest} values; name smaller numbers "
            "(whole vectors are always among those trained)"
        )
    transformer: Any = model[0]
    return {
        "name": section.name,
        "revision": getattr(transformer.config, "_commit_hash", None),
        "query_prefix": reader.prefixes["query"],
        "passage_prefix": reader.prefixes["document"],
        "prompts": {name: text for name, text in reader.prefixes.items() if name not in ("query", "document")},
        "pooling": _pooling_of(model),
        "max_tokens": reader.max_tokens,
        "max_tokens_asked": section.max_tokens,
        "dropout": dropout,
        "vocabulary": len(model.tokenizer),
        "vocabulary_before": getattr(transformer.config, "vocabulary_before", None),
        "lora": lora,
        "code": hash_of(code) if (code := carried_code(model)) else None,
    }


def _pooling_of(model: SentenceTransformer) -> str:
    """What makes a text's vector of its tokens': mean, cls, max, lasttoken, or several of these."""
    pooling = next((module for module in model if isinstance(module, Pooling)), None)
    if pooling is None:
        return "its own"
    return pooling.pooling_mode if isinstance(pooling.pooling_mode, str) else " and ".join(pooling.pooling_mode)


def _sample_texts(store: Store, limit: int) -> Iterator[str]:
    """Up to `limit` training texts, the same number from every language of every partition (the store is shuffled)."""
    columns = [(i, f"{half}_{x}") for i, p in enumerate(store.partitions) for x in p.languages for half in "qp"]
    each = max(1, limit // len(columns))
    for partition, column in columns:
        values = store.take(partition, np.arange(min(each, store.partitions[partition].rows)), column)
        yield from values if column.startswith("q") else (first for first, *_ in values)
