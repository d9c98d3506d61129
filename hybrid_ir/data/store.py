"""The store: parallel groups as wide Parquet rows, partitioned by their languages, plus the held-out collections.

    STORE/manifest.json                   what is in it, from what, content hash; written last
    STORE/train/p000/part-00000.parquet   group_id, document, and per language q_xx, p_xx, p_id_xx (n_xx, n_id_xx);
                                          those of passages and negatives hold lists, in format 1 a text each
    STORE/eval/{validation,test}/         queries.parquet, candidates.parquet
    STORE/splits.parquet                  document -> split
    STORE/rejected/SOURCE.jsonl           every record that was left out, and why
    STORE/teacher/p000/part-00000.parquet what a teacher says of the rows of that file of train/, if one was asked

On an object store all but the manifest is in a folder below STORE, which the manifest names (`staging.py` says why).
In: groups, in the order of their rows. Out: the values of a column at given rows; the queries and pool of a split.
STORE is a folder or any URI that pyarrow's filesystems open (s3://, gs://, file://).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from hybrid_ir.data.manifest import files_root, read_manifest
from hybrid_ir.data.tables.collections import read_collection
from hybrid_ir.data.tables.columns import DAMAGE, TEXTS, check_column, holds_lists, is_taught, values_of
from hybrid_ir.data.tables.source_names import sources_of
from hybrid_ir.storage import is_uri, open_filesystem
from hybrid_ir.types import Collection, Group, InputError, one_line

ROWS_PER_BLOCK = 1024
"""Rows of a Parquet row group. A permutation deals a block's rows together, so that reads stay nearly sequential.
(A power of 4, so that the Feistel network below needs no walking within a block.)"""
BLOCKS_PER_FILE = 64
CACHE_BYTES = 64 << 20
OPEN_FILES = 8
"""Files a reader keeps open: the footer of one is about a megabyte, and a large store has thousands."""


@dataclass(frozen=True)
class Partition:
    """Rows of the store that all have the same languages."""

    name: str
    languages: tuple[str, ...]
    rows: int
    negatives: bool = False
    """Whether every group has a hard negative in every language."""
    most_negatives: int = 1
    """Hard negatives of the group that has most of them in one language."""
    files: tuple[Mapping[str, Any], ...] = ()
    """{"path": relative path, "rows": count, "bytes": size}, in row order."""
    teacher: tuple[Mapping[str, Any], ...] = ()
    """Likewise of a teacher's columns, a file for each of `files`."""
    source: str | None = None
    """The source that all its groups are of; None = of any. The store's own partitions have groups of any."""
    rows_before: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Of one source's: how many of its rows lie before each block of the store's partition that it is part of."""


class Store:
    """A store that is open for reading. Picklable: a worker opens its own files."""

    def __init__(self, path: str, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._root = files_root(path, manifest)
        self.partitions = tuple(
            Partition(
                p["name"],
                tuple(p["languages"]),
                p["rows"],
                p["negatives"],
                p.get("most_negatives", 1),
                tuple(p["files"]),
                tuple(p.get("teacher", ())),
            )
            for p in manifest["partitions"]
        )
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._cache: OrderedDict[tuple[int, int, str], pa.Array] = OrderedDict()
        self._cached_bytes = 0

    def __reduce__(self):
        return Store, (self.path, self.manifest)

    @property
    def content_hash(self) -> str:
        return self.manifest["content_hash"]

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted({language for p in self.partitions for language in p.languages}))

    def take(self, partition: int, rows: np.ndarray, column: str) -> list[Any]:
        """Values of one column at `rows` of a partition, in that order: a text each, or of p, p_id, n and n_id a list
        of texts, or of a teacher's an array. Reads only the row groups they are in."""
        values: list[Any] = [None] * len(rows)
        blocks = rows // ROWS_PER_BLOCK
        for block in np.unique(blocks):
            where = np.flatnonzero(blocks == block)
            array = self._block(partition, int(block), column)
            for i, value in zip(where, values_of(array.take(pa.array(rows[where] % ROWS_PER_BLOCK))), strict=True):
                values[i] = value
        if holds_lists(column) and values and isinstance(values[0], str):
            return [[value] for value in values]  # a store of format 1
        return values

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of what it was prepared from, in that order."""
        return tuple(self.manifest.get("sources", ()))

    def sources_of(self, partition: int, block: int) -> np.ndarray:
        """Index in `sources` of the source of each row of a block. Raises InputError for a row of none of them."""
        try:
            return sources_of(self._block(partition, block, "group_id"), self.sources)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the store {self.path} is damaged: {error}; prepare it again") from None

    def texts(self) -> Iterator[str]:
        """Every text to train on or to test with, in no promised order; one that stands twice comes twice."""
        for number, partition in enumerate(self.partitions):
            halves = ("q", "p", "n") if partition.negatives else ("q", "p")
            for column in (f"{half}_{language}" for half in halves for language in partition.languages):
                for start in range(0, partition.rows, ROWS_PER_BLOCK):
                    values = self.take(number, np.arange(start, min(start + ROWS_PER_BLOCK, partition.rows)), column)
                    yield from chain.from_iterable(values) if holds_lists(column) else values
        for split in (name for name, folder in self.manifest["eval"].items() if folder):
            held_out = self.collection(split)
            yield from (each.text for each in (*held_out.queries, *held_out.candidates))

    def collection(self, split: str) -> Collection:
        """The held-out queries and candidates of "validation" or "test"."""
        folder = self.manifest["eval"].get(split)
        if not folder:
            raise InputError(
                f"the store {self.path} holds out no {split!r} split; "
                f"prepare it with a larger prepare.{split}_fraction (it holds out whole documents)"
            )
        return read_collection(f"{self._root}/{folder}", f"{Path(self.path).name} {split}")

    def _block(self, partition: int, block: int, column: str) -> pa.Array:
        key = (partition, block, column)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        file, group = divmod(block, BLOCKS_PER_FILE)
        of = self.partitions[partition]
        entry = (of.teacher if is_taught(column) else of.files)[file]
        path = f"{self._root}/{entry['path']}"
        try:
            opened = self._open(path)
            array = opened.read_row_group(group, columns=[column])[column].combine_chunks()
            # Pages have checksums, the footer has none: what it says must be what was written.
            rows = min(entry["rows"] - group * ROWS_PER_BLOCK, ROWS_PER_BLOCK)
            check_column(array, column, rows)
        except DAMAGE as error:
            raise InputError(f"{path} cannot be read ({one_line(error)}); prepare the store again") from error
        self._cache[key] = array
        self._cached_bytes += array.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return array

    def _open(self, path: str) -> pq.ParquetFile:
        if path not in self._files:
            filesystem, inner = open_filesystem(path)
            self._files[path] = pq.ParquetFile(filesystem.open_input_file(inner), page_checksum_verification=True)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close(force=True)
        self._files.move_to_end(path)
        return self._files[path]


def open_store(path: str) -> Store:
    """Read the manifest, and check that every file it names is there with its size.

    Raises InputError for a missing store, one of another format, or a missing or truncated file.
    """
    if not is_uri(path):
        path = str(Path(path).absolute())  # workers that the store is sent to stand in another working directory
    manifest = read_manifest(path)
    filesystem, inner = open_filesystem(files_root(path, manifest))
    for partition in manifest["partitions"]:
        for file in (*partition["files"], *partition.get("teacher", ())):
            info = filesystem.get_file_info(f"{inner}/{file['path']}")
            name = f"{files_root(path, manifest)}/{file['path']}"
            if info.type == fs.FileType.NotFound:
                raise InputError(f"{name} is missing; prepare the store again")
            if info.size != file["bytes"]:
                raise InputError(
                    f"{name} is corrupt: it has {info.size} bytes, the manifest says {file['bytes']}; "
                    "prepare the store again"
                )
    return Store(path, manifest)


class PartitionWriter:
    """Writes the rows of one partition in the order it gets them: row groups of `ROWS_PER_BLOCK`, `BLOCKS_PER_FILE` of
    those a file."""

    def __init__(self, root: str, name: str, languages: Sequence[str], negatives: bool) -> None:
        self.name, self.languages, self.negatives = name, tuple(languages), negatives
        self.rows = 0
        self.hash = hashlib.blake2b(digest_size=16)
        self._root = root
        self._filesystem, self._inner = open_filesystem(root)
        self._files: list[dict[str, Any]] = []
        self._buffer: list[Group] = []
        self._writer: pq.ParquetWriter | None = None
        halves = ("q", "p", "p_id", "n", "n_id") if negatives else ("q", "p", "p_id")
        self._columns = [f"{half}_{language}" for language in self.languages for half in halves]
        self._most_negatives = 1
        self._schema = pa.schema(
            [(c, TEXTS if holds_lists(c) else pa.string()) for c in ["group_id", "document", *self._columns]]
        )

    def add(self, group: Group) -> None:
        self._buffer.append(group)
        if len(self._buffer) == ROWS_PER_BLOCK:
            self._flush()

    def close(self) -> dict[str, Any]:
        """Finish, and return the partition's entry of the manifest."""
        if self._buffer:
            self._flush()
        self._close_file()
        return {
            "name": self.name,
            "languages": list(self.languages),
            "rows": self.rows,
            "negatives": self.negatives,
            "most_negatives": self._most_negatives,
            "files": self._files,
            "content_hash": self.hash.hexdigest(),
        }

    def _flush(self) -> None:
        columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        for group in self._buffer:
            columns["group_id"].append(group.group_id)
            columns["document"].append(group.document)
            for language in self.languages:
                columns[f"q_{language}"].append(group.queries[language])
                columns[f"p_{language}"].append([passage.text for passage in group.passages[language]])
                columns[f"p_id_{language}"].append([passage.doc_id for passage in group.passages[language]])
                if self.negatives:
                    negatives = group.negatives[language]
                    columns[f"n_{language}"].append([passage.text for passage in negatives])
                    columns[f"n_id_{language}"].append([passage.doc_id for passage in negatives])
                    self._most_negatives = max(self._most_negatives, len(negatives))
        for name, values in columns.items():
            # Lists of one text give the hash that format 1 gave.
            texts = map("\x1e".join, values) if holds_lists(name) else values
            self.hash.update("\x1f".join(texts).encode("utf-8", "surrogatepass"))
        if self._writer is None:
            path = f"train/{self.name}/part-{len(self._files):05d}.parquet"
            self._filesystem.create_dir(f"{self._inner}/train/{self.name}", recursive=True)
            self._writer = pq.ParquetWriter(
                f"{self._inner}/{path}",
                self._schema,
                filesystem=self._filesystem,
                compression="zstd",
                write_page_checksum=True,
            )
            self._files.append({"path": path, "rows": 0, "bytes": 0})
        self._writer.write_table(pa.table(columns, schema=self._schema), row_group_size=ROWS_PER_BLOCK)
        self._files[-1]["rows"] += len(self._buffer)
        self.rows += len(self._buffer)
        self._buffer = []
        if self._files[-1]["rows"] == ROWS_PER_BLOCK * BLOCKS_PER_FILE:
            self._close_file()

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._files[-1]["bytes"] = self._filesystem.get_file_info(f"{self._inner}/{self._files[-1]['path']}").size
