"""Passages of a shard as a memory-mapped Arrow file, by row number, with their language and metadata.

In: passages that were read and checked. Out: passages.arrow, and what stands in its rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hybrid_ir.index.passages import IndexedPassage, Scalar
from hybrid_ir.storage import open_filesystem
from hybrid_ir.types import InputError, one_line

ROWS_PER_BATCH = 4096
_KEY = "m."  # column of a metadata key


def passage_schema(keys: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in ("doc_id", "text", "language", *(_KEY + key for key in keys))])


def write_passages(path: Path, passages: Iterable[IndexedPassage], keys: Sequence[str]) -> int:
    """Write an Arrow file that `PassageTable` maps; returns the number of rows. `keys` are the metadata columns."""
    schema, rows = passage_schema(keys), 0
    columns: list[list[str | None]] = [[] for _ in schema]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:

        def flush() -> None:
            writer.write_batch(pa.record_batch([pa.array(c, pa.string()) for c in columns], schema=schema))
            for column in columns:
                column.clear()

        for passage in passages:
            values = (passage.metadata.get(key) for key in keys)
            row = [*passage[:3], *(None if value is None else canonical(value) for value in values)]
            for column, value in zip(columns, row, strict=True):
                column.append(value)
            rows += 1
            if len(columns[0]) == ROWS_PER_BATCH:
                flush()
        if columns[0]:
            flush()
    return rows


def canonical(value: Scalar) -> str:
    """A metadata value as it is stored and compared: its JSON, so that 1, "1" and true stay three values.

    2001.0 is 2001: that is what a column of years becomes once one of them is missing.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def read_texts(path: str, start: int, end: int) -> list[str]:
    """Texts of rows `start` to `end` of a `passages.arrow`, at a path or a URI: little more than these is read of it.

    Raises InputError.
    """
    folder, _, name = path.rpartition("/")
    first, last = start // ROWS_PER_BATCH, (end - 1) // ROWS_PER_BATCH
    try:
        filesystem, inner = open_filesystem(folder)
        with filesystem.open_input_file(f"{inner}/{name}") as file:
            reader = pa.ipc.open_file(file)
            texts = pa.chunked_array(reader.get_batch(n).column("text") for n in range(first, last + 1))
            return texts.slice(start - first * ROWS_PER_BATCH, end - start).to_pylist()
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); build the index again") from error


class PassageTable:
    """Passages by row number, from a memory-mapped file: replicas of one machine share its pages."""

    def __init__(self, path: Path) -> None:
        """Raises InputError if the file is not one that `write_passages` wrote, whole."""
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} cannot be read ({one_line(error)}); build the index again") from error
        names = reader.schema.names
        self.keys = tuple(name.removeprefix(_KEY) for name in names[3:])
        self.rows = sum(batch.num_rows for batch in self.batches)
        # Offsets and bytes of each column: a service reads ten rows a query, and Arrow's scalars take ten times longer.
        self._texts = [[_buffers(column) for column in batch.columns[:3]] for batch in self.batches]

    def __getitem__(self, row: int) -> IndexedPassage:
        number, offset = divmod(row, ROWS_PER_BATCH)
        doc_id, text, language = (
            str(data[offsets[offset] : offsets[offset + 1]], "utf-8") for offsets, data in self._texts[number]
        )
        if not self.keys:
            return IndexedPassage(doc_id, text, language)
        batch, metadata = self.batches[number], {}
        for i, key in enumerate(self.keys, start=3):
            value = batch.column(i)[offset].as_py()
            if value is not None:
                metadata[key] = json.loads(value)
        return IndexedPassage(doc_id, text, language, metadata)

    def labels(self, rows: Sequence[int], key: str) -> list[tuple[str, str | None]]:
        """(doc_id, the key's value as `canonical` wrote it, or None) of each row."""
        places, has = [divmod(row, ROWS_PER_BATCH) for row in rows], key in self.keys
        values = [self.batches[n][_KEY + key][at].as_py() if has else None for n, at in places]
        return [(self.batches[n]["doc_id"][at].as_py(), v) for (n, at), v in zip(places, values, strict=True)]

    def take(self, rows: np.ndarray) -> pa.Table:
        return pa.Table.from_batches(self.batches).take(pa.array(rows))

    def find(self, doc_id: str) -> int | None:
        """Row of the passage with this doc_id, or None. Reads doc_ids until it is found."""
        value = pa.scalar(doc_id, pa.string())
        for number, batch in enumerate(self.batches):
            offset = pc.index(batch.column("doc_id"), value).as_py()
            if offset >= 0:
                return number * ROWS_PER_BATCH + offset
        return None

    def values(self, batch: pa.RecordBatch, key: str) -> pa.Array:
        """Of one key of the metadata, in one of the batches: as `canonical` wrote them, null where there is none."""
        return batch[_KEY + key]

    def column(self, name: str) -> Iterator[list[str]]:
        """Values of one column, a batch at a time."""
        for batch in self.batches:
            yield batch.column(name).to_pylist()

    def where(self, passing: Callable[[int, Callable[[str], pa.Array | None]], np.ndarray]) -> np.ndarray:
        """Sorted rows that pass. `passing` is asked for each batch of rows: its size, and what a key's column is, as
        `canonical` wrote it (None where no row has one)."""
        found, start = [np.empty(0, dtype=np.int64)], 0
        for batch in self.batches:
            mask = passing(
                batch.num_rows, lambda key, batch=batch: self.values(batch, key) if key in self.keys else None
            )
            found.append(start + np.flatnonzero(mask))
            start += batch.num_rows
        return np.concatenate(found)


def _buffers(column: pa.Array) -> tuple[memoryview, memoryview]:
    """Offsets (int32, one more than rows) and bytes of a string column without nulls, as views of the mapped file."""
    _, offsets, data = column.buffers()
    start = column.offset
    view = memoryview(offsets).cast("B").cast("i")[start : start + len(column) + 1]
    return view, memoryview(data) if data is not None else memoryview(b"")
