"""Vectors that were made elsewhere: found, checked against the encoder that will encode the queries, and read.

In: a folder that `hybrid-ir encode` wrote; or a .parquet file of doc_id and vector (or embedding), a folder of such
files, or a .npy matrix, with an ids.parquet beside it or else in the order of the passages. Out: blocks of vectors with
their doc_ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hybrid_ir.data import id_text
from hybrid_ir.encoders import difference
from hybrid_ir.index.vectors.written import IDS, REDO, read_vectors_manifest
from hybrid_ir.storage import fetch
from hybrid_ir.types import InputError, one_line

BLOCK_ROWS = 16_384
"""Vectors in memory at a time: of 1,024 numbers these are 64 MiB."""
KINDS = "a folder that `hybrid-ir encode` wrote, a .parquet file with the columns doc_id and vector, or a .npy matrix"
COLUMNS = ("vector", "embedding")
"""Under which names a Parquet file has its vectors, the first of them that it has."""


class Block(NamedTuple):
    """Vectors that stand one after another in the file."""

    start: int
    """Row of the first, counted from 0 over all files."""
    ids: list[str] | None
    """doc_id of each; None: row n is the vector of passage n."""
    vectors: np.ndarray
    """(rows, D) float32."""
    cut: np.ndarray | None
    """(rows,) bool: which texts were longer than the encoder reads; None where the file does not say."""


class VectorFiles(NamedTuple):
    """Where vectors are."""

    path: str
    """What the user typed."""
    here: Path
    """The same, or a local copy of a URI."""
    files: tuple[Path, ...]
    """One .npy, or .parquet files."""
    ids: Path | None
    """doc_ids of the rows of the .npy."""

    @property
    def manifest(self) -> bool:
        """Whether `hybrid-ir encode` wrote them, which says who made them."""
        return (self.here / "manifest.json").is_file()


@dataclass(frozen=True)
class GivenVectors:
    """Vectors on disk that may be used with the encoder. `path` is what the user typed."""

    path: str
    files: tuple[Path, ...]
    ids: Path | None
    dimension: int
    space: str | None
    """Space id of the encoder that made them; None: the user says that it is this one."""

    @property
    def rows(self) -> int:
        return sum(len(_matrix(f)) if f.suffix == ".npy" else _parquet(f).metadata.num_rows for f in self.files)

    @property
    def by_row(self) -> bool:
        return self.ids is None and self.files[0].suffix == ".npy"

    def blocks(self) -> Iterator[Block]:
        """All vectors, in the order of the files. Raises InputError for a file that cannot be read, a vector of another
        dimension, and a row without a doc_id."""
        start = 0
        for file in self.files:
            for block in self._of_matrix(file) if file.suffix == ".npy" else self._of_parquet(file):
                yield block._replace(start=start)
                start += len(block.vectors)

    def _of_matrix(self, file: Path) -> Iterator[Block]:
        matrix = _matrix(file)
        if self.ids is None:
            for start in range(0, len(matrix), BLOCK_ROWS):
                yield Block(0, None, _float32(matrix[start : start + BLOCK_ROWS]), None)
            return
        start = 0
        for batch in _batches(self.ids, ["doc_id", "cut"]):
            ids, cut = _ids_and_cut(self.ids, batch, start)
            yield Block(0, ids, _float32(matrix[start : start + len(ids)]), cut)
            start += len(ids)

    def _of_parquet(self, file: Path) -> Iterator[Block]:
        start = 0
        name = _column_of(_parquet(file).schema_arrow.names)
        assert name is not None  # `open_vectors` has looked
        for batch in _batches(file, ["doc_id", "cut", name]):
            ids, cut = _ids_and_cut(file, batch, start)
            column = batch.column(name)
            lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))  # type: ignore[attr-defined]
            if (wrong := np.flatnonzero(lengths != self.dimension)).size:
                row = int(wrong[0])
                raise InputError(
                    f"{file}: the vector of {ids[row]!r:.80} (row {start + row}, counted from 0) has {lengths[row]} "
                    f"numbers, the encoder's have {self.dimension}; give vectors that this encoder made"
                )
            # A null among the numbers becomes NaN, which is refused as such.
            numbers = _float32(column.flatten().to_numpy(zero_copy_only=False))
            yield Block(0, ids, numbers.reshape(len(ids), self.dimension), cut)
            start += len(ids)


def find_vectors(path: str, *, trusted: bool) -> VectorFiles:
    """The files of vectors at a path or URI.

    Raises InputError where there are none, and for vectors without the id of their encoder's space, unless `trusted`.
    """
    here = Path(fetch(path)).absolute()
    if not here.exists():
        raise InputError(f"no vectors at {path}; give {KINDS}")
    if (here / ".build").is_dir():
        raise InputError(f"the vectors of {path} are unfinished; run the command again that was writing them")
    if not ((here / "manifest.json").is_file() or trusted):
        raise InputError(
            f"{path} does not say which encoder made its vectors (it has no manifest.json of `hybrid-ir encode`); "
            "where you know that it is the encoder of --checkpoint, with its prefix for passages, add --trust-vectors"
        )
    there = sorted(f for f in here.iterdir() if f.name[0] not in "._") if here.is_dir() else [here]
    matrices = [file for file in there if file.suffix == ".npy"]
    ids = matrices[0].with_name(IDS) if matrices else here / IDS
    tables = [file for file in there if file.suffix == ".parquet" and not (matrices and file.name == IDS)]
    if len(matrices) + bool(tables) != 1:
        found = ", ".join(file.name for file in there[:12]) or "nothing"
        raise InputError(f"{path} is not {KINDS}: found {found}")
    return VectorFiles(path, here, tuple(matrices or tables), ids if matrices and ids.is_file() else None)


def open_vectors(found: VectorFiles, space: dict[str, Any]) -> GivenVectors:
    """The vectors, for an encoder of this space (`space_of`).

    Raises InputError where their manifest names another space, or the role of a query, and where they have another
    dimension.
    """
    path, _, files, ids = found
    made_by = None
    if found.manifest:
        manifest = read_vectors_manifest(found.here)
        made_by = manifest.space["id"]
        if made_by != space["id"]:
            raise InputError(
                f"the vectors of {path} were made by another encoder (space {made_by}) than --checkpoint's (space "
                f"{space['id']}): they differ in {difference(manifest.space, space)}; name the encoder that made them, "
                f"or {REDO}"
            )
        if manifest.role != "document":
            raise InputError(f"the vectors of {path} were made with --role {manifest.role}; an index holds documents")
    given = GivenVectors(path, files, ids, space["dimension"], made_by)
    for file in files:
        wide = _matrix(file).shape[1] if file.suffix == ".npy" else _width(file)
        if wide not in (None, given.dimension):
            raise InputError(
                f"the vectors of {file} have {wide} numbers each, the encoder's have {given.dimension}; give vectors "
                "that this encoder made"
            )
    if ids is not None and (named := _parquet(ids).metadata.num_rows) != given.rows:
        raise InputError(f"{files[0]} has {given.rows:,} rows, and {ids.name} beside it {named:,}; write both again")
    return given


def _matrix(file: Path) -> np.ndarray:
    try:
        matrix = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} cannot be read ({one_line(error)}); write it again with numpy.save") from error
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind != "f":
        found = f"{matrix.dtype} of shape {matrix.shape}" if isinstance(matrix, np.ndarray) else "several arrays"
        raise InputError(f"{file} holds {found}; it must be one matrix of floats, a vector a row")
    return matrix


def _float32(numbers: np.ndarray) -> np.ndarray:
    """A number that is too large becomes infinite, which is refused as such."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


def _parquet(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} cannot be read ({one_line(error)}); write it again") from error


def _width(file: Path) -> int | None:
    """Numbers of every vector of a .parquet file, where its schema says so. Raises InputError for other columns."""
    schema = _parquet(file).schema_arrow
    found = ", ".join(f"{field.name} ({field.type})"[:60] for field in list(schema)[:12]) or "no column"
    name = _column_of(schema.names)
    if "doc_id" not in schema.names or name is None:
        raise InputError(
            f"{file} has {found}; vectors need the columns doc_id and {' or '.join(COLUMNS)}, a list of floats"
        )
    kind = schema.field(name).type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not pa.types.is_floating(kind.value_type):
        raise InputError(f"{file} has {found}; the column {name} must be a list of floats")
    return kind.list_size if pa.types.is_fixed_size_list(kind) else None


def _column_of(names: list[str]) -> str | None:
    return next((name for name in COLUMNS if name in names), None)


def _batches(file: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Of the columns those that the file has."""
    opened = _parquet(file)
    columns = [name for name in columns if name in opened.schema_arrow.names]
    if "doc_id" not in columns:
        raise InputError(f"{file} has no column doc_id; write it again with one")
    try:
        yield from opened.iter_batches(batch_size=BLOCK_ROWS, columns=columns)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{file} cannot be read to its end ({one_line(error)}); write it again") from error


def _ids_and_cut(file: Path, batch: pa.RecordBatch, start: int) -> tuple[list[str], np.ndarray | None]:
    ids = []
    for row, value in enumerate(batch.column("doc_id").to_pylist()):
        if (doc_id := id_text(value)) is None:
            raise InputError(
                f"{file}: row {start + row}, counted from 0, has the doc_id {value!r:.80}; it must be a text or an "
                "integer"
            )
        ids.append(doc_id)
    if "cut" not in batch.schema.names or not pa.types.is_boolean(batch.schema.field("cut").type):
        return ids, None
    return ids, np.asarray(pc.fill_null(batch.column("cut"), False)).astype(bool)  # type: ignore[attr-defined]
