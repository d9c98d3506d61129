"""A store again, with a teacher's columns beside its own. In: a store, answers. Out: the files of a new store.

Its groups and what is held out are copied file by file. Each of a partition's files gets one beside it, whose rows and
row groups are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import hybrid_ir
from hybrid_ir.data import ROWS_PER_BLOCK, Partition, Store, files_root, refuse_existing, staged, take_over
from hybrid_ir.storage import open_filesystem
from hybrid_ir.types import InputError

Ask = Callable[[int, np.ndarray, str], Sequence[np.ndarray]]
"""Number of a partition, rows of it, a teacher's column -> the numbers of each row."""


def write_with_teacher(
    store: Store,
    out: str,
    columns: Callable[[Partition], Sequence[str]],
    kind: pa.DataType,
    ask: Ask,
    taught: Callable[[], Mapping[str, Any]],
    progress: Callable[[str, int], None],
) -> dict[str, Any]:
    """Write the store with these columns of each partition to `out`, and return the manifest. No columns, no files.

    `kind` is their type. `taught` is called when all is asked: what the manifest says of the teacher. The content hash
    is another one than the store's, since a training learns from other numbers. Raises InputError where `out` exists,
    for a store without groups, and for a file of the store that cannot be read: nothing is written then.
    """
    refuse_existing(out)
    if not store.partitions:
        raise InputError(f"the store {store.path} has no groups to train on, so there is nothing to ask a teacher")
    manifest = store.manifest
    places = [place for place in manifest["eval"].values() if place]
    kept = [file["path"] for partition in store.partitions for file in partition.files]
    kept += [f"{place}/{name}.parquet" for place in places for name in ("queries", "candidates")]
    digest = hashlib.blake2b(store.content_hash.encode(), digest_size=16)
    with staged(out) as (root, folder):
        take_over(files_root(store.path, manifest), root, kept)
        partitions, done = [], 0
        for number, partition in enumerate(store.partitions):
            wanted, files = columns(partition), []
            if wanted:
                files = _write_partition(root, number, partition, wanted, kind, ask, digest, progress, done)
            partitions.append({**manifest["partitions"][number], "teacher": files})
            done += partition.rows
        new = {
            **manifest,
            "version": hybrid_ir.__version__,
            "content_hash": digest.hexdigest(),
            "partitions": partitions,
            "folder": folder,
            "taught": {"from": store.content_hash, **taught()},
        }
        filesystem, inner = open_filesystem(root)
        with filesystem.open_output_stream(f"{inner}/manifest.json") as stream:
            stream.write(json.dumps(new, indent=2, ensure_ascii=False).encode())
    return new


def _write_partition(
    root: str,
    number: int,
    partition: Partition,
    columns: Sequence[str],
    kind: pa.DataType,
    ask: Ask,
    digest: Any,
    progress: Callable[[str, int], None],
    done: int,
) -> list[dict[str, Any]]:
    """The teacher's files of a partition, as its entry in the manifest names them."""
    filesystem, inner = open_filesystem(root)
    filesystem.create_dir(f"{inner}/teacher/p{number:03d}", recursive=True)
    schema = pa.schema([(column, kind) for column in columns])
    files, first = [], 0
    for which, of in enumerate(partition.files):
        path = f"teacher/p{number:03d}/part-{which:05d}.parquet"
        with pq.ParquetWriter(
            f"{inner}/{path}",
            schema,
            filesystem=filesystem,
            compression="zstd",
            use_dictionary=False,  # hardly any number comes twice
            write_page_checksum=True,
        ) as writer:
            for start in range(first, first + of["rows"], ROWS_PER_BLOCK):
                rows = np.arange(start, min(start + ROWS_PER_BLOCK, first + of["rows"]))
                block = {column: _lists(ask(number, rows, column), kind, digest) for column in columns}
                writer.write_table(pa.table(block, schema=schema), row_group_size=ROWS_PER_BLOCK)
                progress("groups taught", done + int(rows[-1]) + 1)
        first += of["rows"]
        files.append({"path": path, "rows": of["rows"], "bytes": filesystem.get_file_info(f"{inner}/{path}").size})
    return files


def _lists(of_rows: Sequence[np.ndarray], kind: pa.DataType, digest: Any) -> pa.Array:
    ends = np.cumsum([0, *map(len, of_rows)])
    values = np.concatenate(of_rows)
    digest.update(values.tobytes())
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values)).cast(kind)
