"""The index on disk: its manifest, the files of its shards, and whether they are what was written.

In: an index folder. Out: its manifest, or an InputError that names the file at fault.

    INDEX/manifest.json                what is in it, checksums, space id, recall; written last
    INDEX/encoder/                     the encoder that made the vectors: an index is served by nothing else
    INDEX/codec.faiss                  the trained, empty index that every shard starts from (not for Flat)
    INDEX/shards/000/vectors.faiss     codes; row n is row n of the files beside it
                     vectors.f16.npy   the vectors for exact scores (not for Flat, whose codes are the vectors)
                     ids.npy           global id of each row: the passage's number in the input
                     passages.arrow    doc_id, text, language, metadata
    INDEX/rejected.jsonl               records that were left out, and why

Rows of a shard are sorted by language, then by global id, so that a language is a range of rows.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hybrid_ir.storage import fetch
from hybrid_ir.types import InputError

FORMAT = 1
REBUILD = "build the index again: hybrid-ir index --checkpoint ... --passages ... --out ..."


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Part):
    bytes: int
    blake2b: str


class ShardEntry(_Part):
    name: str
    rows: int
    languages: dict[str, tuple[int, int]]
    """Language -> first row, row after its last."""
    files: dict[str, File]


class Manifest(_Part):
    format: int
    index_version: str
    """Hash of the shards and the space: two indexes with one version give the same answers."""
    space: dict[str, Any]
    """`space.space_of` the encoder."""
    probes: list[list[float]]
    """`space.probe_vectors` of the encoder, when the index was built."""
    codec: str
    """The faiss.index_factory string."""
    nprobe: int
    """Inverted lists that a search without filter visits; 0 for Flat."""
    sharding: str
    languages: dict[str, int]
    """Passages of each language, over all shards."""
    metadata_keys: list[str]
    shards: list[ShardEntry]
    files: dict[str, File]
    """Files beside the shards."""
    recall: dict[str, Any]
    """Of the gate: {"k", "target", "sampled", "unfiltered": {language: recall}, "filtered": {language: recall}}."""
    rejected: dict[str, int]
    settings: dict[str, Any]
    created: str
    versions: dict[str, str]

    @property
    def rows(self) -> int:
        return sum(self.languages.values())


def read_manifest(index: str | Path) -> Manifest:
    """Raises InputError when there is no index, or none that this version reads."""
    path = Path(fetch(str(index))) / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no index at {index} (it has no manifest.json); {REBUILD}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); {REBUILD}") from error
    if not isinstance(content, dict) or "shards" not in content:
        raise InputError(
            f"{index} is not an index: its manifest.json lists no shards; choose a folder that `hybrid-ir index` wrote"
        )
    if content.get("format") != FORMAT:
        raise InputError(
            f"{index} is an index of format {content.get('format')}, this version reads {FORMAT}; {REBUILD}"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path} is damaged ({where}: {first['msg']}); {REBUILD}") from None


def check_files(index: str | Path, files: dict[str, File], *, checksums: bool = True) -> None:
    """That every file is there, whole and (reading all of it, which also brings it into the page cache) unchanged.

    Raises InputError that names the file.
    """
    folder = Path(fetch(str(index)))
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing; {REBUILD}")
        size = path.stat().st_size
        if size != expected.bytes:
            raise InputError(
                f"{path} is truncated or corrupt: it has {size} bytes, the manifest says {expected.bytes}; {REBUILD}"
            )
        if checksums and hash_file(path) != expected.blake2b:
            raise InputError(f"{path} is corrupt: its checksum is not the manifest's; {REBUILD}")


def describe_files(index: Path, names: list[str]) -> dict[str, File]:
    """The manifest's entry of each file, by its name relative to `index`."""
    return {n: File(bytes=(index / n).stat().st_size, blake2b=hash_file(index / n)) for n in names}


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def version_of(space: dict[str, Any], codec: str, nprobe: int, shards: list[ShardEntry]) -> str:
    """Hash of what an answer depends on."""
    content = [space["id"], codec, nprobe, [shard.model_dump(mode="json") for shard in shards]]
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()
