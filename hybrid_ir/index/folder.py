"""The index on disk: its manifest, the files of its shards, and whether they are what was written.

In: an index folder. Out: its manifest, or an InputError that names the file at fault.

    INDEX/manifest.json                what is in the current version, checksums, space id, recall; written last
    INDEX/versions/VERSION.json        the manifest of every version that is kept, the current one too
    INDEX/encoder/                     the encoder that made the vectors: an index is served by nothing else
    INDEX/lists-003.npy                passages of each language in each inverted list, up to shard 003 (not for Flat);
    INDEX/lists-003-HASH.npy           the same without those that are deleted, named by its content
    INDEX/lexical-HASH.arrow           how many passages have each word, with index.lexical
    INDEX/codec.faiss                  the trained, empty index that every shard starts from (not for Flat)
    INDEX/shards/000/vectors.faiss     codes; row n is row n of the files beside it
                     vectors.f16.npy   the vectors for exact scores (not for Flat, whose codes are the vectors)
                     ids.npy           global id of each row: the passage's number among those that were accepted
                     passages.arrow    doc_id, text, language, metadata
                     pieces.npy        row and characters of each vector, where long passages have several
                     terms.arrow       words and the rows that have them, and lengths.npy, their number in each row
                     deleted-HASH.npy  numbers of the rows that are deleted, in the versions that name it
    INDEX/rejected.jsonl               records that the build left out, and why
    INDEX/rejected-003.jsonl           the same of the addition that wrote shard 003

No file that a manifest names is ever written again, so versions stand side by side and share what they have in common:
whoever serves one goes on opening it, whatever is added. `prune_versions` removes what only older versions need.

Rows of a shard are sorted by language, then by global id, so that a language is a range of rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from hybrid_ir.index.pieces.entry import PiecesOf
from hybrid_ir.index.query import CANDIDATES
from hybrid_ir.storage import fetch_files, is_uri, lies_inside, read_file, sizes_of
from hybrid_ir.types import InputError, one_line

FORMAT = 2
WITH_DELETED, WITH_PIECES, WITH_WORDS = 3, 4, 5
"""Of a manifest with deleted rows, with pieces, or with words: who does not know of them must not read it."""
READABLE = (1, 2, 3, 4, 5)
"""Format 1 had one version, and no checksum of the manifest."""
REBUILD = "build the index again: hybrid-ir index --checkpoint ... --passages ... --out ..."


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Part):
    bytes: int
    blake2b: str


class Deleted(_Part):
    """Rows of a shard that no search finds any more."""

    name: str
    """Of the file with their numbers, relative to the index."""
    file: File
    languages: dict[str, int]
    """Language -> rows of it that are deleted."""


class ShardEntry(_Part):
    name: str
    rows: int
    """Of its files: deleted ones are among them."""
    languages: dict[str, tuple[int, int]]
    """Language -> first row, row after its last."""
    files: dict[str, File]
    deleted: Deleted | None = None

    @property
    def tombstones(self) -> dict[str, File]:
        """The file of the deleted rows, if any are. Apart from `files`, which stay the same whatever is deleted."""
        return {} if self.deleted is None else {self.deleted.name: self.deleted.file}

    @property
    def living(self) -> dict[str, int]:
        """Language -> rows of it that are not deleted; languages of which none is left are not there."""
        gone = {} if self.deleted is None else self.deleted.languages
        counts = {name: end - start - gone.get(name, 0) for name, (start, end) in self.languages.items()}
        return {name: count for name, count in counts.items() if count}

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it was written before rows could be deleted, where none is: older programs read it, and versions stay."""
        content = handler(self)
        if self.deleted is None:
            del content["deleted"]
        return content


class LexicalOf(_Part):
    """Words of all living passages. `lexical-HASH.arrow` has the `terms`, which are different, with their counts."""

    rule: int
    """`lexical.RULE`: what a word is."""
    words: int
    terms: int


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
    candidates: int = CANDIDATES
    """Passages for each hit that a lossy codec finds, and that are scored exactly."""
    sharding: str
    languages: dict[str, int]
    """Passages of each language, over all shards, without those that are deleted."""
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
    parent: str | None = None
    """Version that this one was made from by a change; None = by a build."""
    cut: dict[str, int] = {}
    """Passages of each language that were longer than the encoder reads: their ends are not in their vectors."""
    pieces: PiecesOf | None = None
    """None = every passage has one vector."""
    lexical: LexicalOf | None = None
    """None = searches are by vectors alone."""
    checksum: str = ""
    """`checksum_of` all the other fields."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it was written before there were pieces or words, where there are none: older programs read it."""
        content = handler(self)
        for name in ("pieces", "lexical"):
            if content[name] is None:
                del content[name]
        return content

    @property
    def rows(self) -> int:
        return sum(self.languages.values())

    @property
    def every_file(self) -> dict[str, File]:
        """Whatever this version needs: the files beside the shards, the shards', and those of deleted rows."""
        parts = (part for shard in self.shards for part in (shard.files, shard.tombstones))
        return {name: file for files in (self.files, *parts) for name, file in files.items()}


def read_manifest(index: str | Path, version: str | None = None) -> Manifest:
    """The manifest of one version, by default the current one. Raises InputError when there is no index, no such
    version, none that this program reads, or one that names a file outside of the index."""
    current = _parse(index, "manifest.json")
    if version in (None, current.index_version):
        return current
    try:
        if "/" in version:
            raise FileNotFoundError(version)
        return _parse(index, f"versions/{version}.json")
    except FileNotFoundError:
        raise InputError(
            f"{index} has no version {version} any more, the current one is {current.index_version}; swap to that"
        ) from None


def _parse(index: str | Path, name: str) -> Manifest:
    path = f"{index}/{name}"
    try:
        content = json.loads(read_file(str(index), name))
    except FileNotFoundError:
        if name != "manifest.json":
            raise
        raise InputError(f"no index at {index} (it has no manifest.json); {REBUILD}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); {REBUILD}") from error
    if not isinstance(content, dict) or "shards" not in content:
        raise InputError(
            f"{index} is not an index: its manifest.json lists no shards; choose a folder that `hybrid-ir index` wrote"
        )
    if content.get("format") not in READABLE:
        raise InputError(
            f"{index} is an index of format {content.get('format')!r:.40}, this version reads "
            f"{', '.join(map(str, READABLE))}; {REBUILD}"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path} is damaged ({where}: {first['msg']}); {REBUILD}") from None
    if manifest.format > 1 and manifest.checksum != checksum_of(content):
        raise InputError(f"{path} is damaged (its checksum is not that of its content); {REBUILD}")
    named = [f"versions/{manifest.index_version}", *(f"shards/{shard.name}" for shard in manifest.shards)]
    for name in (*named, *manifest.every_file):
        if not lies_inside(str(index), name):
            raise InputError(
                f"{path} names {name!r:.80}, which lies outside of the index; take an index from whom you trust, or "
                "build it yourself"
            )
    return manifest


def checksum_of(content: dict[str, Any]) -> str:
    """Hash of a manifest's JSON but for its own `checksum`."""
    others = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.blake2b(json.dumps(others, sort_keys=True).encode(), digest_size=16).hexdigest()


def local_files(index: str | Path, files: Mapping[str, File]) -> Path:
    """A folder that has these files by their names: the index itself, or of one at a URI a copy of them alone."""
    return Path(fetch_files(str(index), {name: (file.bytes, file.blake2b) for name, file in files.items()}))


def encoder_folder(index: str | Path, manifest: Manifest) -> str:
    """The folder of the index's own encoder, its files checked. Raises InputError that names the one at fault."""
    files = {name: file for name, file in manifest.files.items() if name.startswith("encoder/")}
    check_files(index, files)
    return str(local_files(index, files) / "encoder")


def is_lists(name: str) -> bool:
    """Whether a file beside the shards is that of the passages in each inverted list."""
    return name.startswith("lists-")


def is_counted(name: str) -> bool:
    """Whether a file beside the shards counts what is in all of them: another version has another."""
    return is_lists(name) or name.startswith("lexical-")


def check_files(index: str | Path, files: Mapping[str, File], *, checksums: bool = True, remedy: str = REBUILD) -> None:
    """That every file is there, whole and (reading all of it, which also brings it into the page cache) unchanged.

    Files at a URI are fetched and checked, or without `checksums` only looked at. Raises InputError that names the
    file.
    """
    sizes: Mapping[str, int] = {}
    if remote := is_uri(str(index)):
        if checksums:
            index = local_files(index, files)
        else:
            sizes = sizes_of(str(index))
    for name, expected in files.items():
        path = f"{index}/{name}"
        if remote and not checksums:
            size = sizes.get(name)
        else:
            size = Path(path).stat().st_size if Path(path).is_file() else None
        if size is None:
            raise InputError(f"{path} is missing; {remedy}")
        if size != expected.bytes:
            raise InputError(
                f"{path} is truncated or corrupt: it has {size} bytes, the manifest says {expected.bytes}; {remedy}"
            )
        if checksums and hash_file(Path(path)) != expected.blake2b:
            raise InputError(f"{path} is corrupt: its checksum is not the manifest's; {remedy}")


def describe_files(index: Path, names: list[str]) -> dict[str, File]:
    """The manifest's entry of each file, by its name relative to `index`."""
    return {n: File(bytes=(index / n).stat().st_size, blake2b=hash_file(index / n)) for n in names}


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
