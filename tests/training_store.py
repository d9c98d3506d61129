"""A made-up store that trains in seconds: numbered facts in three languages, whose words map one to one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.data.inputs import Input
from hybrid_ir.data.prepare import prepare
from hybrid_ir.data.store import Store
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.presets import create_encoder
from hybrid_ir.encoders.tokens import TextReader
from hybrid_ir.types import Group, Passage

WORDS = {"de": ("wo ist", "liegt bei"), "en": ("where is", "stands at"), "es": ("dónde está", "queda en")}


def groups(n: int = 300, first: int = 0) -> list[Group]:
    made = []
    for i in range(first, first + n):
        name = {"de": f"haus{i}", "en": f"house{i}", "es": f"casa{i}"}
        queries = {x: f"{WORDS[x][0]} {name[x]}?" for x in WORDS}
        passages = {x: (Passage(f"place/{i}", f"{name[x]} {WORDS[x][1]} {i * 7 % 1000}"),) for x in WORDS}
        made.append(Group(str(i), str(i), queries, passages))
    return made


def make_store(path: Path, n: int = 300, seed: int = 0) -> dict[str, Any]:
    return prepare(
        [Input("houses", lambda: iter(groups(n)))],
        str(path),
        seed=seed,
        validation_fraction=0.05,
        test_fraction=0.1,
        settings={},
    )


def make_reader(store: Store, folder: Path) -> TextReader:
    texts = [
        text
        for x in store.languages
        for half in "qp"
        for value in store.take(0, np.arange(store.partitions[0].rows), f"{half}_{x}")
        for text in ([value] if half == "q" else value)
    ]
    create_encoder("tiny", texts, folder, vocabulary=600, max_tokens=32, seed=0)
    return TextReader.of(load_encoder(str(folder), max_tokens=32))
