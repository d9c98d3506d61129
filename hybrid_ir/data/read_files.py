"""Read a file row by row: lines, tab-separated fields, JSON lines, Parquet.

In: the path of a file; of text also .gz. Out: (where a row stands, the row), one at a time.
A file that is missing or breaks off is an InputError that names it and the last row that was read. So is one with a row
of more than 16 MiB: a file of a few kilobytes may hold a line that decompresses to more than the machine's memory.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_ir.data.find_files import listing
from hybrid_ir.types import InputError, Rejected, one_line

SHORTER = "cut its text, or write it as several"
ROW_BYTES = 16 << 20
"""The most that a row may have. Of Parquet it is what the row takes in memory."""


def read_lines(path: Path, most: int = ROW_BYTES) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of a UTF-8 file, plain or .gz; only LF and CRLF end a line.

    Bytes that are not UTF-8 come as lone surrogates, which `checked_group` rejects. Raises InputError for a line of
    more than `most` bytes, of which no more than those are read.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(most + 1), b""), start=1):
                if len(line) > most:
                    raise InputError(f"line {number} of {path} has more than {most:,} bytes; {SHORTER}")
                if number == 1 and (encoding := _other_encoding(line)):
                    raise InputError(f"{path} is {encoding}, not UTF-8; convert it: iconv -f {encoding} -t UTF-8")
                text = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
                yield number, text.removeprefix("\ufeff") if number == 1 else text
    except FileNotFoundError:
        raise InputError(f"no file {path}; found {listing(path.parent)} in its folder") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name a file in it") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read after line {number} ({one_line(error)}); copy it again") from error


def _other_encoding(start: bytes) -> str:
    """UTF-16 or UTF-32 if a file begins so, with a byte order mark or with the zero bytes of Latin letters; else ""."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    zeros = [at % 2 for at in range(min(len(start), 64)) if start[at] == 0]
    if len(zeros) >= 2 and len(set(zeros)) == 1:
        return "UTF-16LE" if zeros[0] else "UTF-16BE"
    return ""


def read_tsv(path: Path, fields: int) -> Iterator[tuple[str, list[str]]]:
    """(file:line, up to so many fields) of each line of a tab-separated file, unquoted. The last keeps its tabs: who is
    to notice a column too many asks for one field more than there should be."""
    for number, line in read_lines(path):
        yield f"{path.name}:{number}", line.split("\t", fields - 1)


def sift_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
    """(file:line, object, or `Rejected` if it is not one) of each line: for training data, where a line may break."""
    for number, line in read_lines(path):
        where = f"{path.name}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        yield where, record if isinstance(record, dict) else Rejected(where, "not a JSON object", line[:200])


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path:line, object) of each line: for tests and pools, where one that is not an object is an InputError."""
    for name, record in sift_json_lines(path):
        where = str(path.parent / name)
        if isinstance(record, Rejected):
            raise InputError(f"{where} is not a JSON object: {record.record[:80]!r}; copy the file again")
        yield where, record


def parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(row number from 1, row). A row that is not UTF-8, or with a key of a map twice, comes as a string, as if it were
    JSON that does not parse."""
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for i in range(batch.num_rows):
                    number += 1
                    if batch.nbytes > ROW_BYTES and batch.slice(i, 1).nbytes > ROW_BYTES:
                        raise InputError(f"row {number} of {path} has more than {ROW_BYTES:,} bytes; {SHORTER}")
                    try:
                        row = batch.slice(i, 1).to_pylist(maps_as_pydicts="strict")[0]
                    except (UnicodeDecodeError, KeyError):
                        row = "a row that is not UTF-8, or a map with a key twice"
                    yield number, row
    except FileNotFoundError:
        raise InputError(f"no file {path}; found {listing(path.parent)} in its folder") from None
    except InputError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a name of a column that is not UTF-8
        raise InputError(f"{path} cannot be read after row {number} ({one_line(error)}); write it again") from error


def checked_text(where: str, text: str) -> str:
    """The text itself. Raises InputError if it came from bytes that are not UTF-8, which no tokenizer reads."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where} is not valid UTF-8; copy the file again") from None
    return text
