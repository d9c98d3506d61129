"""The encoder that a run starts from. In: a preset, a folder or a hub name. Out: what workers on any node can load."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hybrid_ir.config import Experiment
from hybrid_ir.data import Store
from hybrid_ir.encoders import PRESETS, create_encoder
from hybrid_ir.storage import absolute, is_uri, put

TOKENIZER_TEXTS = 200_000


def initial_model(experiment: Experiment, store: Store, run: Path) -> str:
    """Folder, URI or hub name of the encoder to start from; a preset is made once and kept in RUN/initial."""
    section = experiment.encoder
    if section.name not in PRESETS:
        return absolute(section.name) if Path(section.name).exists() else section.name
    folder = run / "initial"
    if not (folder / "config.json").is_file():
        partial = run / ".initial.partial"
        shutil.rmtree(partial, ignore_errors=True)
        create_encoder(
            section.name,
            _sample_texts(store, TOKENIZER_TEXTS),
            partial,
            vocabulary=section.vocabulary,
            max_tokens=section.max_tokens,
            seed=experiment.seed,
        )
        os.replace(partial, folder)
    if is_uri(experiment.out):
        put(folder, f"{experiment.out}/initial")
        return f"{experiment.out}/initial"
    return absolute(str(folder))


def _sample_texts(store: Store, limit: int) -> Iterator[str]:
    """Up to `limit` training texts, the same number from every language of every partition (the store is shuffled)."""
    columns = [(i, f"{half}_{x}") for i, p in enumerate(store.partitions) for x in p.languages for half in "qp"]
    each = max(1, limit // len(columns))
    for partition, column in columns:
        yield from store.take(partition, np.arange(min(each, store.partitions[partition].rows)), column)
