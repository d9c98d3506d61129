"""A held-out collection as two Parquet files, of its queries and of its candidates.

In: queries and candidates. Out: the same, read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_ir.data.tables.columns import DAMAGE
from hybrid_ir.storage import lies_inside, open_filesystem
from hybrid_ir.types import Candidate, Collection, InputError, Query, one_line


def write_collection(folder: str, queries: Iterable[Query], candidates: Iterable[Candidate]) -> None:
    """Queries and candidates as two Parquet files with the fields of `Query` and `Candidate` as columns."""
    filesystem, inner = open_filesystem(folder)
    filesystem.create_dir(inner, recursive=True)
    for name, rows, fields in (("queries", queries, Query._fields), ("candidates", candidates, Candidate._fields)):
        table = pa.Table.from_pylist([row._asdict() for row in rows], schema=_collection_schema(fields))
        path = f"{inner}/{name}.parquet"
        pq.write_table(table, path, filesystem=filesystem, compression="zstd", write_page_checksum=True)


def read_collection(folder: str, name: str) -> Collection:
    """What `write_collection` wrote. Raises InputError if it is missing or unreadable."""
    filesystem, inner = open_filesystem(folder)
    tables = []
    for part, fields in (("queries", Query._fields), ("candidates", Candidate._fields)):
        if not lies_inside(folder, f"{part}.parquet"):
            raise InputError(f"{folder}/{part}.parquet is a link out of the store; put the file itself there")
        try:
            with filesystem.open_input_file(f"{inner}/{part}.parquet") as file:
                table = pq.ParquetFile(file, page_checksum_verification=True).read(columns=list(fields))
            if table.schema != _collection_schema(fields):
                raise ValueError(f"its columns are {', '.join(table.schema.names)}")
            tables.append(table.to_pylist())
        except FileNotFoundError:
            raise InputError(f"{folder}/{part}.parquet is missing; prepare the store again") from None
        except DAMAGE as error:
            raise InputError(
                f"{folder}/{part}.parquet cannot be read ({one_line(error)}); prepare the store again"
            ) from error
    return Collection(
        name,
        [Query(**row) for row in tables[0]],
        [Candidate(**{**row, "group_ids": tuple(row["group_ids"])}) for row in tables[1]],
    )


def _collection_schema(fields: Sequence[str]) -> pa.Schema:
    return pa.schema([(f, pa.list_(pa.string()) if f == "group_ids" else pa.string()) for f in fields])
