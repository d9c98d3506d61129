"""A store again, with other hard negatives. In: a store, negatives of its groups. Out: the files of a new store.

Groups lie by whether they have a negative in each of their languages, as `prepare` puts them, and in its order. What is
held out, which document is in which split and what was rejected are taken over.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import fs

import hybrid_ir
from hybrid_ir.data import (
    FORMAT,
    ROWS_PER_BLOCK,
    PartitionWriter,
    Store,
    files_root,
    place_of,
    signature_of,
    take_over,
    write_collection,
)
from hybrid_ir.storage import open_filesystem
from hybrid_ir.types import Group, Passage

Negatives = Callable[[int, np.ndarray], Iterable[Mapping[str, Sequence[Passage]]]]
"""Number of a partition, rows of it -> the negatives of each row's group by language."""


def write_with_negatives(
    store: Store,
    root: str,
    folder: str,
    negatives: Negatives,
    mined: Mapping[str, Any],
    progress: Callable[[str, int], None] = lambda stage, done: None,
    also: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Write the store's groups with these negatives, and no others, to `root`, and return the manifest.

    `root` and `folder` are what `staged` gave. `mined` is what the manifest says of how they were found; `also` are
    files of this machine that the store gets, by the names that they have there. A group that lacks one in any of its
    languages is written without, as `prepare` does. Raises InputError for a file of the store that cannot be read.
    """
    seed = store.manifest.get("seed", 0)
    partitions, done = [], 0
    for languages in dict.fromkeys(partition.languages for partition in store.partitions):
        numbers = [n for n, partition in enumerate(store.partitions) if partition.languages == languages]
        writers: dict[tuple[tuple[str, ...], bool], PartitionWriter] = {}
        # Each partition is in this order already: those that become one are shuffled into each other.
        parts = (_groups(store, number, negatives) for number in numbers)
        for group in heapq.merge(*parts, key=lambda group: place_of(group.group_id, seed)):
            target = signature_of(group)
            if target not in writers:
                writers[target] = PartitionWriter(root, f"p{len(partitions) + len(writers):03d}", *target)
            writers[target].add(group)
            done += 1
            if not done % ROWS_PER_BLOCK:
                progress("groups written", done)
        partitions += [writer.close() for writer in writers.values()]
    evals = {}
    for split in (name for name, place in store.manifest["eval"].items() if place):
        held_out = store.collection(split)
        write_collection(f"{root}/eval/{split}", held_out.queries, held_out.candidates)
        evals[split] = f"eval/{split}"
    take_over(files_root(store.path, store.manifest), root)
    digest = hashlib.blake2b("".join(p["content_hash"] for p in partitions).encode(), digest_size=16).hexdigest()
    manifest = {
        # What a teacher said was of the old rows and negatives.
        **{key: value for key, value in store.manifest.items() if key != "taught"},
        "format": FORMAT,
        "version": hybrid_ir.__version__,
        "content_hash": digest,
        "partitions": partitions,
        "eval": evals,
        "folder": folder,
        "mined": dict(mined),
    }
    filesystem, inner = open_filesystem(root)
    for name, path in (also or {}).items():
        fs.copy_files(str(path), f"{inner}/{name}", destination_filesystem=filesystem)
    with filesystem.open_output_stream(f"{inner}/manifest.json") as stream:
        stream.write(json.dumps(manifest, indent=2, ensure_ascii=False).encode())
    return manifest


def _groups(store: Store, number: int, negatives: Negatives) -> Iterator[Group]:
    """The groups of a partition, with their negatives, in the order of its rows."""
    partition = store.partitions[number]
    for start in range(0, partition.rows, ROWS_PER_BLOCK):
        rows = np.arange(start, min(start + ROWS_PER_BLOCK, partition.rows))
        ids, documents = (store.take(number, rows, column) for column in ("group_id", "document"))
        queries = {x: store.take(number, rows, f"q_{x}") for x in partition.languages}
        passages = {x: passages_of(store, number, rows, x) for x in partition.languages}
        for i, found in enumerate(negatives(number, rows)):
            yield Group(
                ids[i],
                documents[i],
                {x: queries[x][i] for x in partition.languages},
                {x: passages[x][i] for x in partition.languages},
                found,
            )


def passages_of(
    store: Store, number: int, rows: np.ndarray, language: str, half: str = "p"
) -> list[tuple[Passage, ...]]:
    """The answers (half p) or the negatives (n) of each of these rows of a partition, in a language."""
    columns = (store.take(number, rows, f"{column}_{language}") for column in (f"{half}_id", half))
    return [tuple(map(Passage, ids, texts)) for ids, texts in zip(*columns, strict=True)]
