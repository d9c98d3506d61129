"""Postings and counts on disk, as Arrow files whose arrays are mapped as they lie, little-endian.

In: a folder. Out: postings that are views of its files.

    terms.arrow     a row a term, sorted: `term`, and `postings`, the list of its passages' rows and frequencies
    lengths.npy     words of each passage
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hybrid_ir.lexical.bm25 import Statistics, column_of_terms, terms_of_column
from hybrid_ir.lexical.postings import Postings

TERMS, LENGTHS = "terms.arrow", "lengths.npy"


def write_postings(folder: Path, postings: Postings) -> None:
    """Equal postings give equal bytes. Raises OSError where it cannot be written."""
    posting = pa.StructArray.from_arrays(
        [pa.array(postings.rows), pa.array(postings.frequencies)], names=["row", "frequency"]
    )
    lists: Any = pa.LargeListArray.from_arrays(pa.array(postings.starts), posting)
    _write(folder / TERMS, {"term": column_of_terms(postings.terms), "postings": lists})
    with (folder / LENGTHS).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(postings.lengths))
        file.write(np.ascontiguousarray(postings.lengths).view(np.uint8).data)


def open_postings(folder: Path) -> Postings:
    """The folder's, mapped: processes of one machine share the pages. Raises ValueError where its files do not hold
    postings, or not of one another, and OSError."""
    path = folder / TERMS
    batch = _read(path, pa.memory_map(str(path)), ["term", "postings"])
    lengths = np.asarray(np.load(folder / LENGTHS, mmap_mode="r"))
    lists: Any = batch.column("postings")
    try:
        rows, frequencies = (lists.values.field(name).to_numpy() for name in ("row", "frequency"))
        starts = lists.offsets.to_numpy()
    except (KeyError, AttributeError, pa.ArrowException) as error:
        raise ValueError(f"{path} does not hold postings") from error
    right = rows.dtype == np.int32 and frequencies.dtype.kind == "u" and lengths.dtype == np.int32
    if not right or lengths.ndim != 1 or (len(rows) and not 0 <= rows.min() <= rows.max() < len(lengths)):
        raise ValueError(f"{path} does not hold postings of {len(lengths)} passages")
    if len(starts) != batch.num_rows + 1 or starts[0] != 0 or starts[-1] != len(rows) or (np.diff(starts) < 1).any():
        raise ValueError(f"{path} does not hold postings of {batch.num_rows} terms")
    return Postings(terms_of_column(batch.column("term")), starts, rows, frequencies, lengths)


def write_statistics(path: Path, statistics: Statistics) -> None:
    """The terms and their counts. How many passages and words there are in all is for the caller to keep."""
    _write(path, {"term": column_of_terms(statistics.terms), "count": pa.array(statistics.counts, pa.int64())})


def read_statistics(path: Path, passages: int, words: int) -> Statistics:
    """Into memory: a service is to outlive a file that is truncated under it. Raises ValueError and OSError."""
    batch = _read(path, pa.BufferReader(path.read_bytes()), ["term", "count"])
    counts = batch.column("count").to_numpy()
    if counts.dtype != np.int64 or (len(counts) and not 0 < counts.min() <= counts.max() <= passages):
        raise ValueError(f"{path} does not hold counts of {passages} passages")
    return Statistics(passages, words, terms_of_column(batch.column("term")), counts)


def _write(path: Path, columns: dict[str, pa.Array]) -> None:
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _read(path: Path, source: Any, names: list[str]) -> pa.RecordBatch:
    try:
        reader = pa.ipc.open_file(source)
        batch = reader.get_batch(0)
    except (pa.ArrowException, IndexError) as error:
        raise ValueError(f"{path} is not an Arrow file of one batch") from error
    if reader.schema.names != names or reader.schema.field("term").type != pa.large_string():
        raise ValueError(f"{path} has the columns {reader.schema.names}, not {names}")
    return batch
