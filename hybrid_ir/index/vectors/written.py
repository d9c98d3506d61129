"""A folder of vectors on disk: its files, its manifest, and whether they are what was written.

In: fragments with their vectors. Out: the folder, its manifest written last, so that one that has it is whole.

    VECTORS/vectors.parquet   doc_id, language, cut, vector: a fixed-size list of float32 (--format parquet)
    VECTORS/vectors.npy       (rows, D) float32, for numpy.load with mmap_mode="r"         (--format npy)
    VECTORS/ids.parquet       doc_id, language, cut of each row of vectors.npy              (--format npy)
    VECTORS/rejected.jsonl    records that were left out, and why
    VECTORS/manifest.json     the encoder's space, the role, counts, checksums

Rows are in the order of the passages. `cut` says that a text was longer than the encoder reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from hybrid_ir.index.folder import File, check_files, checksum_of
from hybrid_ir.index.fragments import Fragments
from hybrid_ir.index.passage_table import PassageTable
from hybrid_ir.storage import lies_inside
from hybrid_ir.types import InputError, one_line

FORMAT = 1
REDO = "encode the passages again: hybrid-ir encode --checkpoint ... --passages ... --out ..."
PARQUET, MATRIX, IDS, REJECTED = "vectors.parquet", "vectors.npy", "ids.parquet", "rejected.jsonl"


class VectorsManifest(BaseModel):
    """What made the vectors of a folder, and what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    kind: Literal["vectors"]
    space: dict[str, Any]
    """`space_of` the encoder: its "id" is the same wherever the encoder lies."""
    role: Literal["document", "query"]
    prefix: str
    """What stood before each text: the encoder's own for the role."""
    dimension: int
    rows: int
    languages: dict[str, int]
    """Texts of each language."""
    rejected: dict[str, int]
    """Records that were left out, by reason."""
    cut: dict[str, int]
    """Texts of each language that were longer than the encoder reads: their ends are not in their vectors."""
    files: dict[str, File]
    settings: dict[str, Any]
    created: str
    versions: dict[str, str]
    checksum: str = ""


def write_parquet(fragments: Fragments, dimension: int, folder: Path) -> None:
    """Write vectors.parquet, a row group a fragment. Raises OSError where it cannot be written."""
    vector = pa.list_(pa.float32(), dimension)
    schema = pa.schema([*_ids_schema(), ("vector", vector)])
    # A dictionary of floats is tried and given up at every page.
    with pq.ParquetWriter(folder / PARQUET, schema, use_dictionary=["language"]) as file:  # type: ignore[arg-type]
        for number, ids in enumerate(_ids(fragments)):
            numbers = pa.array(_vectors(fragments, number).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(numbers, type=vector)
            file.write_table(pa.table([*ids, column], schema=schema))


def write_matrix(fragments: Fragments, dimension: int, folder: Path) -> None:
    """Write vectors.npy, a fragment at a time, and ids.parquet beside it. Raises OSError where they cannot be written.

    Written and not mapped: of a mapped file a full disk is a signal that kills, and no error.
    """
    with (folder / MATRIX).open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (fragments.rows, dimension)}
        np.lib.format.write_array_header_1_0(file, header)
        for number in range(len(fragments.counts)):
            file.write(_vectors(fragments, number).astype("<f4", copy=False).tobytes())
    schema = _ids_schema()
    with pq.ParquetWriter(folder / IDS, schema, use_dictionary=["language"]) as file:  # type: ignore[arg-type]
        for ids in _ids(fragments):
            file.write_table(pa.table(ids, schema=schema))


def _vectors(fragments: Fragments, number: int) -> np.ndarray:
    return np.load(fragments.path(number) / "vectors.npy")


def _ids_schema() -> pa.Schema:
    return pa.schema([("doc_id", pa.string()), ("language", pa.string()), ("cut", pa.bool_())])


def _ids(fragments: Fragments) -> Iterator[list[pa.Array]]:
    """doc_id, language and cut of each fragment's rows."""
    for number in range(len(fragments.counts)):
        folder = fragments.path(number)
        table = PassageTable(folder / "passages.arrow")
        texts = ([value for batch in table.column(name) for value in batch] for name in ("doc_id", "language"))
        yield [*(pa.array(column, pa.string()) for column in texts), pa.array(np.load(folder / "cut.npy"))]


def read_vectors_manifest(folder: Path) -> VectorsManifest:
    """The manifest of a folder that `hybrid-ir encode` wrote, all its files checked against it.

    Raises InputError for another kind of folder, and for a file that is missing or not what was written.
    """
    path = folder / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); {REDO}") from error
    if not isinstance(content, dict) or content.get("kind") != "vectors":
        raise InputError(
            f"{folder} holds no vectors: its manifest.json is of something else; give a folder that `hybrid-ir encode` "
            "wrote, or a .parquet or .npy file"
        )
    if content.get("format") != FORMAT:
        raise InputError(
            f"{folder} holds vectors of format {content.get('format')!r:.40}, this version reads {FORMAT}; {REDO}"
        )
    try:
        manifest = VectorsManifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path} is damaged ({'.'.join(map(str, first['loc']))}: {first['msg']}); {REDO}") from None
    if manifest.checksum != checksum_of(content):
        raise InputError(f"{path} is damaged (its checksum is not that of its content); {REDO}")
    if outside := [name for name in manifest.files if not lies_inside(str(folder), name)]:
        raise InputError(f"{path} names {outside[0]!r:.80}, which lies outside of the folder; {REDO}")
    check_files(folder, manifest.files, remedy=REDO)
    return manifest
