"""Passages to index: read and checked one by one, then kept as memory-mapped Arrow with their language and metadata.

In: JSON lines or Parquet, a folder of them, a store, or an XQuAD-R folder. Out: passages and rejects; passages.arrow.
A record is {"doc_id": text, "text": text, "language": code} with optional "metadata": {key: text, number or
true/false}. A doc_id may be an integer, and null is absent. Rejects never stop the reading and never vanish.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hybrid_ir.data import id_text, lareqa_collection, open_store, parquet_rows, read_lines, record_files, shorten
from hybrid_ir.languages import language_code
from hybrid_ir.storage import open_filesystem
from hybrid_ir.types import OUTER_SPACE, InputError, Rejected, key64, one_line

Scalar = str | int | float | bool
FIELDS = ("doc_id", "text", "language", "metadata")
MAX_METADATA_KEYS = 64
ROWS_PER_BATCH = 4096
_KEY = "m."  # column of a metadata key


class IndexedPassage(NamedTuple):
    """A passage with what a search may filter by."""

    doc_id: str
    text: str
    language: str
    metadata: Mapping[str, Scalar] = {}


def read_passages(path: str | Path) -> Iterator[IndexedPassage | Rejected]:
    """Passages of a .jsonl, .jsonl.gz or .parquet file or a folder of them; of a store; or of an XQuAD-R folder.

    Raises InputError for a missing or unreadable file.
    """
    root = passages_at(path)
    if (root / "manifest.json").is_file():
        yield from _store_passages(str(root))
    elif root.is_dir() and not any(root.rglob("*.jsonl*")) and not any(root.rglob("*.parquet")):
        for candidate in lareqa_collection(root, root.name).candidates:
            yield IndexedPassage(candidate.doc_id, candidate.text, candidate.language)
    else:
        for file in record_files(root):
            for number, record in parquet_rows(file) if file.suffix == ".parquet" else read_lines(file):
                if isinstance(record, str) and not record.strip():
                    continue
                yield _parse(record, f"{file.name}:{number}")


def texts_of(path: str | Path) -> Iterator[str]:
    """Every text at a path that `read_passages` reads; of a store its queries too. What is rejected is passed over."""
    root = passages_at(path)
    if (root / "manifest.json").is_file():
        yield from open_store(str(root)).texts()
    else:
        yield from (found.text for found in read_passages(root) if isinstance(found, IndexedPassage))


SAMPLE = 1000
"""Passages of a language whose mean stands for the language's."""


def sample_by_language(paths: Sequence[str], languages: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Up to `SAMPLE` different texts of each language, those with the smallest hashes: the same from any order.

    Raises InputError for a language that no passage has.
    """
    kept: dict[str, dict[int, str]] = {}
    for found in (found for path in paths for found in read_passages(path)):
        if isinstance(found, IndexedPassage) and (languages is None or found.language in languages):
            some = kept.setdefault(found.language, {})
            some[key64(found.text)] = found.text
            if len(some) > 4 * SAMPLE:
                kept[found.language] = dict(sorted(some.items())[:SAMPLE])
    if missing := sorted(set(languages or ()) - kept.keys()):
        raise InputError(f"no passage is in {', '.join(missing)}; there are {', '.join(sorted(kept)) or 'none at all'}")
    return {language: [text for _, text in sorted(some.items())[:SAMPLE]] for language, some in sorted(kept.items())}


def passages_at(path: str | Path) -> Path:
    """The path itself. Raises InputError if nothing is there."""
    if not Path(path).exists():
        raise InputError(
            f"no passages at {path}; give .jsonl, .jsonl.gz or .parquet files, a store, or an XQuAD-R folder"
        )
    return Path(path)


def _store_passages(path: str) -> Iterator[IndexedPassage]:
    """Every passage of a store, of all its splits, once: a store's doc_ids are unique within a language only, and
    its held-out pools hold passages of the training split too."""
    store = open_store(path)
    seen: set[int] = set()

    def new(doc_id: str, text: str, language: str) -> Iterator[IndexedPassage]:
        key = key64(f"{language}/{text}")
        if key not in seen:
            seen.add(key)
            yield IndexedPassage(f"{language}/{doc_id}", text, language)

    for number, partition in enumerate(store.partitions):
        for start in range(0, partition.rows, ROWS_PER_BATCH):
            rows = np.arange(start, min(start + ROWS_PER_BATCH, partition.rows))
            for language in partition.languages:
                ids, texts = (store.take(number, rows, f"{half}_{language}") for half in ("p_id", "p"))
                for doc_id, text in zip(chain.from_iterable(ids), chain.from_iterable(texts), strict=True):
                    yield from new(doc_id, text, language)
    for split, folder in sorted(store.manifest["eval"].items()):
        for candidate in store.collection(split).candidates if folder else ():
            yield from new(candidate.doc_id, candidate.text, candidate.language)


def _parse(record: Any, where: str) -> IndexedPassage | Rejected:
    reason = None
    if isinstance(record, str):
        try:
            record = json.loads(record)
        except (ValueError, RecursionError):
            return Rejected(where, "not valid JSON", shorten(record))
    if not isinstance(record, dict):
        return Rejected(where, "not a JSON object", shorten(record))
    record = {name: value for name, value in record.items() if value is not None}
    if unknown := sorted(record.keys() - set(FIELDS)):
        reason = f"unknown field {', '.join(unknown)[:80]} (metadata goes under 'metadata')"
    metadata = record.get("metadata", {})
    if isinstance(metadata, dict):
        # pandas writes a gap in a column of numbers as NaN.
        metadata = {key: value for key, value in metadata.items() if value is not None and value == value}
    if (doc_id := id_text(record.get("doc_id"))) is not None:
        record["doc_id"] = doc_id
    for name in FIELDS[:3]:
        value = record.get(name)
        if not isinstance(value, str) or not value.strip(OUTER_SPACE):
            reason = reason or f"no {name}, or one that is not a text"
        elif not _is_utf8(value):
            reason = reason or f"{name} is not valid UTF-8"
    if not isinstance(metadata, dict) or any(
        not _is_scalar(v) or not k or not _is_utf8(k) for k, v in metadata.items()
    ):
        reason = reason or "metadata must map names to texts, true/false or finite numbers of at most 64 bits"
    if reason is None:
        try:
            return IndexedPassage(
                record["doc_id"], record["text"].strip(OUTER_SPACE), language_code(record["language"]), metadata
            )
        except InputError as error:
            reason = str(error)
    return Rejected(where, reason, shorten(record))


def _is_scalar(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**64  # what JSON's readers and writers hold
    return (isinstance(value, float) and math.isfinite(value)) or (isinstance(value, str) and _is_utf8(value))


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


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
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} cannot be read ({one_line(error)}); build the index again") from error
        names = reader.schema.names
        self.keys = tuple(name.removeprefix(_KEY) for name in names[3:])
        self.rows = sum(batch.num_rows for batch in self._batches)
        # Offsets and bytes of each column: a service reads ten rows a query, and Arrow's scalars take ten times longer.
        self._texts = [[_buffers(column) for column in batch.columns[:3]] for batch in self._batches]

    def __getitem__(self, row: int) -> IndexedPassage:
        number, offset = divmod(row, ROWS_PER_BATCH)
        doc_id, text, language = (
            str(data[offsets[offset] : offsets[offset + 1]], "utf-8") for offsets, data in self._texts[number]
        )
        if not self.keys:
            return IndexedPassage(doc_id, text, language)
        batch, metadata = self._batches[number], {}
        for i, key in enumerate(self.keys, start=3):
            value = batch.column(i)[offset].as_py()
            if value is not None:
                metadata[key] = json.loads(value)
        return IndexedPassage(doc_id, text, language, metadata)

    def labels(self, rows: Sequence[int], key: str) -> list[tuple[str, str | None]]:
        """(doc_id, the key's value as `canonical` wrote it, or None) of each row."""
        places, has = [divmod(row, ROWS_PER_BATCH) for row in rows], key in self.keys
        values = [self._batches[n][_KEY + key][at].as_py() if has else None for n, at in places]
        return [(self._batches[n]["doc_id"][at].as_py(), v) for (n, at), v in zip(places, values, strict=True)]

    def take(self, rows: np.ndarray) -> pa.Table:
        return pa.Table.from_batches(self._batches).take(pa.array(rows))

    def find(self, doc_id: str) -> int | None:
        """Row of the passage with this doc_id, or None. Reads doc_ids until it is found."""
        value = pa.scalar(doc_id, pa.string())
        for number, batch in enumerate(self._batches):
            offset = pc.index(batch.column("doc_id"), value).as_py()
            if offset >= 0:
                return number * ROWS_PER_BATCH + offset
        return None

    def column(self, name: str) -> Iterator[list[str]]:
        """Values of one column, a batch at a time."""
        for batch in self._batches:
            yield batch.column(name).to_pylist()

    def where(self, passing: Callable[[int, Callable[[str], pa.Array | None]], np.ndarray]) -> np.ndarray:
        """Sorted rows that pass. `passing` is asked for each batch of rows: its size, and what a key's column is, as
        `canonical` wrote it (None where no row has one)."""
        found, start = [np.empty(0, dtype=np.int64)], 0
        for batch in self._batches:
            mask = passing(batch.num_rows, lambda key, batch=batch: batch[_KEY + key] if key in self.keys else None)
            found.append(start + np.flatnonzero(mask))
            start += batch.num_rows
        return np.concatenate(found)


def _buffers(column: pa.Array) -> tuple[memoryview, memoryview]:
    """Offsets (int32, one more than rows) and bytes of a string column without nulls, as views of the mapped file."""
    _, offsets, data = column.buffers()
    start = column.offset
    view = memoryview(offsets).cast("B").cast("i")[start : start + len(column) + 1]
    return view, memoryview(data) if data is not None else memoryview(b"")
