"""Prepare: sources in, a shuffled, partitioned, split store out.

In: inputs, fractions, a seed. Out: the store's files, as `store.py` lists them, and its manifest. The same sources and
seed give the same store, whatever the order of the input. It streams: memory holds one bucket of the data, and what is
held out.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import hybrid_ir
from hybrid_ir.config import Experiment
from hybrid_ir.data.held_out import held_out_collection
from hybrid_ir.data.inputs import Input, inputs_for
from hybrid_ir.data.manifest import FORMAT
from hybrid_ir.data.shuffle import Scattered, scatter, shuffled
from hybrid_ir.data.splits import Signature, Split, assign_splits, partition_signatures, signature_of
from hybrid_ir.data.staging import staged
from hybrid_ir.data.store import PartitionWriter
from hybrid_ir.data.tables.collections import write_collection
from hybrid_ir.storage import open_filesystem
from hybrid_ir.types import Group, InputError


def prepare_experiment(
    experiment: Experiment, progress: Callable[[str, int], None] = lambda source, groups: None
) -> dict[str, Any]:
    """Write the store of an experiment, and return its manifest. Raises as `prepare` does."""
    section = experiment.prepare
    return prepare(
        inputs_for(section.sources),
        experiment.store,
        seed=experiment.seed,
        validation_fraction=section.validation_fraction,
        test_fraction=section.test_fraction,
        settings=section.model_dump(mode="json"),
        progress=progress,
    )


def prepare(
    inputs: Sequence[Input],
    path: str,
    *,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
    settings: dict[str, Any],
    progress: Callable[[str, int], None] = lambda source, groups: None,
) -> dict[str, Any]:
    """Write the store at `path` and return its manifest. `settings` is recorded in it.

    A store appears whole or not at all, and an old one at `path` can be read until then. Raises InputError when a
    source yields no good group, when nothing is left to train on, or when `path` holds something that is not a store.
    """
    # Beside a local store: there is room, and what a killed process leaves there is removed by the next.
    with (
        staged(path) as (root, folder),
        tempfile.TemporaryDirectory(prefix="hybrid-ir-prepare-", dir=None if folder else root) as scratch,
    ):
        scattered = scatter(inputs, Path(scratch), root, progress)
        split_of = assign_splits(scattered.documents.items(), seed, validation_fraction, test_fraction)
        manifest = _write(inputs, scattered, split_of, root, seed) | {"folder": folder, "settings": settings}
        filesystem, inner = open_filesystem(root)
        with filesystem.open_output_stream(f"{inner}/manifest.json") as stream:
            stream.write(json.dumps(manifest, indent=2, ensure_ascii=False).encode())
    return manifest


def _write(
    inputs: Sequence[Input], scattered: Scattered, split_of: dict[str, Split], root: str, seed: int
) -> dict[str, Any]:
    """The second pass: everything of the store but its manifest, which is returned."""
    tally = scattered.tally
    partition_of = partition_signatures(scattered.signatures)
    names = {target: f"p{i:03d}" for i, target in enumerate(sorted(set(partition_of.values())))}
    writers: dict[Signature, PartitionWriter] = {}
    held_out: dict[Split, list[Group]] = {"validation": [], "test": []}
    split_counts: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    dropped_versions = 0
    for source, group in shuffled(scattered, seed):
        split = split_of[group.document]
        split_counts[split] += 1
        tally.sources[source][split] = tally.sources[source].get(split, 0) + 1
        if split != "train":
            held_out[split].append(group)
            continue
        target = partition_of[signature_of(group)]
        if target not in writers:
            writers[target] = PartitionWriter(root, names[target], *target)
        writers[target].add(group)
        languages.update(target[0])
        dropped_versions += len(group.queries) - len(target[0])
    partitions = [writers[t].close() for t in sorted(writers, key=lambda t: names[t])]
    if not partitions:
        raise InputError("nothing is left to train on; lower prepare.test_fraction or add sources")
    evals = {}
    for split, groups in held_out.items():
        if groups:
            write_collection(f"{root}/eval/{split}", *held_out_collection(inputs, groups, split, split_of, scattered))
            evals[split] = f"eval/{split}"
    _write_splits(root, split_of)
    tally.close()
    digest = hashlib.blake2b("".join(p["content_hash"] for p in partitions).encode(), digest_size=16).hexdigest()
    return {
        "format": FORMAT,
        "version": hybrid_ir.__version__,
        "seed": seed,
        "content_hash": digest,
        "groups": dict(split_counts),
        "languages": dict(sorted(languages.items())),
        "language_versions_unused": dropped_versions,
        "sources": tally.sources,
        "partitions": partitions,
        "eval": evals,
    }


def _write_splits(root: str, split_of: dict[str, Split]) -> None:
    filesystem, inner = open_filesystem(root)
    rows = sorted(split_of.items())
    table = pa.table({"document": [d for d, _ in rows], "split": [s for _, s in rows]})
    pq.write_table(table, f"{inner}/splits.parquet", filesystem=filesystem, compression="zstd")
