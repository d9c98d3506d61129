"""Tombstones: the rows of a shard that are deleted, in a file of their own beside the shard's.

In: a shard's entry and numbers of rows. Out: an entry that names them; of an entry, which rows live.
The file's name has the hash of its content, so another deletion is another file, and no file is ever written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hybrid_ir.index.folder import (
    REBUILD,
    Deleted,
    Manifest,
    ShardEntry,
    check_files,
    describe_files,
    local_files,
)
from hybrid_ir.index.fragments import save_array
from hybrid_ir.index.passage_table import PassageTable
from hybrid_ir.types import InputError, one_line

compute: Any = pc  # whose functions are made when it is imported, so that no type checker knows them


def save_by_content(index: Path, stem: str, array: np.ndarray) -> str:
    """Save it as `stem`-HASH.npy, below the index; the name. An equal array has the same name and the same bytes."""
    content = np.ascontiguousarray(array)
    digest = hashlib.blake2b(f"{content.dtype.str}{content.shape}".encode() + content.tobytes(), digest_size=8)
    name = f"{stem}-{digest.hexdigest()}.npy"
    save_array(index / name, content)
    return name


def living_rows(index: str | Path, entry: ShardEntry) -> np.ndarray | None:
    """(rows,) bool: which rows of a shard are not deleted; None where none is. Raises InputError for a file that is
    damaged, or is not what the manifest says."""
    if entry.deleted is None:
        return None
    check_files(index, entry.tombstones)
    path = local_files(index, entry.tombstones) / entry.deleted.name
    try:
        rows, living = np.load(path), np.ones(entry.rows, dtype=bool)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); {REBUILD}") from error
    if rows.ndim != 1 or rows.dtype != np.int64 or not len(rows) or rows.min() < 0 or rows.max() >= entry.rows:
        raise InputError(f"{path} does not hold rows of shard {entry.name}; {REBUILD}")
    living[rows] = False
    if count_by_language(entry, np.flatnonzero(~living)) != entry.deleted.languages:
        raise InputError(f"{path} holds other rows of shard {entry.name} than the manifest says; {REBUILD}")
    return living


def rows_of(index: Path, manifest: Manifest, doc_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Name of a shard -> its living rows with one of these doc_ids, sorted. What is not there is not among them."""
    found, among = {}, pa.array(doc_ids, pa.string())
    for entry in manifest.shards:
        batches = PassageTable(index / "shards" / entry.name / "passages.arrow").batches
        masks = [compute.is_in(batch.column("doc_id"), value_set=among) for batch in batches]
        rows = np.flatnonzero(np.concatenate([mask.to_numpy(zero_copy_only=False) for mask in masks]))
        living = living_rows(index, entry)
        rows = rows if living is None else rows[living[rows]]
        if len(rows):
            found[entry.name] = rows
    return found


def doc_ids_of(index: Path, entry: ShardEntry) -> set[str]:
    """Of a shard's living rows."""
    columns = PassageTable(index / "shards" / entry.name / "passages.arrow").column("doc_id")
    doc_ids = [doc_id for batch in columns for doc_id in batch]
    living = living_rows(index, entry)
    return set(doc_ids) if living is None else {doc_ids[row] for row in np.flatnonzero(living)}


def keys_of_living(index: Path, entries: Sequence[ShardEntry]) -> list[str]:
    """Keys of metadata that a living passage of these shards has, in the order of their names."""
    keys: set[str] = set()
    for entry in entries:
        table, living, start = (
            PassageTable(index / "shards" / entry.name / "passages.arrow"),
            living_rows(index, entry),
            0,
        )
        for batch in table.batches:
            here = slice(start, start + batch.num_rows)
            for key in set(table.keys) - keys:
                there = table.values(batch, key).is_valid().to_numpy(zero_copy_only=False)
                if (there if living is None else there & living[here]).any():
                    keys.add(key)
            start += batch.num_rows
    return sorted(keys)


def bury(index: Path, entries: Sequence[ShardEntry], rows: Mapping[str, np.ndarray]) -> list[ShardEntry]:
    """The shards without these rows (name -> living rows) too. A shard of which nothing is left is not among them."""
    left = []
    for entry in entries:
        gone = rows.get(entry.name, ())
        if len(gone):
            living = living_rows(index, entry)
            every = np.union1d([] if living is None else np.flatnonzero(~living), gone).astype(np.int64)
            if len(every) == entry.rows:
                continue
            name = save_by_content(index, f"shards/{entry.name}/deleted", every)
            deleted = Deleted(
                name=name, file=describe_files(index, [name])[name], languages=count_by_language(entry, every)
            )
            entry = entry.model_copy(update={"deleted": deleted})
        left.append(entry)
    return left


def count_by_language(entry: ShardEntry, rows: np.ndarray) -> dict[str, int]:
    """Language -> how many of the sorted rows are of it; only those of which some are."""
    counts = {
        name: int(np.searchsorted(rows, end) - np.searchsorted(rows, start))
        for name, (start, end) in entry.languages.items()
    }
    return {name: count for name, count in counts.items() if count}
