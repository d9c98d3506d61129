"""The manifest of a store: what makes a folder a store, and where its files are.

In: where a store stands. Out: what its manifest.json says, checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hybrid_ir.storage import lies_inside, open_filesystem
from hybrid_ir.types import InputError, one_line

FORMAT = 2
"""What is written. Since format 2 a group has a list of passages and of negatives in each language."""
READ_FORMATS = (1, FORMAT)
OTHER = "take a store from whom you trust, or prepare it yourself"


class _File(BaseModel):
    path: str
    rows: int
    bytes: int


class _PartitionEntry(BaseModel):
    name: str
    languages: list[str]
    rows: int
    negatives: bool
    most_negatives: int = 1
    files: list[_File]
    teacher: list[_File] = []


class _Manifest(BaseModel):
    """What a store is read by; its manifest tells more."""

    model_config = ConfigDict(strict=True)
    content_hash: str
    partitions: list[_PartitionEntry]
    eval: dict[str, str]
    languages: dict[str, int] = {}
    groups: dict[str, int] = {}
    folder: str = ""


def files_root(path: str, manifest: Mapping[str, Any]) -> str:
    """Where the files of a store at `path` are: there, or in the folder that its manifest names."""
    return "/".join([path.rstrip("/"), *filter(None, [manifest.get("folder")])])


def is_store(path: str) -> bool:
    """Whether a manifest is at `path`, be it of a damaged store."""
    filesystem, inner = open_filesystem(path)
    return filesystem.get_file_info(f"{inner}/manifest.json").is_file


def read_manifest(path: str) -> dict[str, Any]:
    """Raises InputError for a missing store, one of another format, a manifest that is none of a store, or one that
    names a file outside of it."""
    filesystem, inner = open_filesystem(path)
    try:
        with filesystem.open_input_stream(f"{inner}/manifest.json") as stream:
            manifest = json.loads(stream.read())
    except FileNotFoundError:
        raise InputError(f"no store at {path} (it has no manifest.json); run: hybrid-ir prepare store={path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}/manifest.json cannot be read ({one_line(error)}); prepare the store again") from error
    if not isinstance(manifest, dict) or "partitions" not in manifest:
        raise InputError(
            f"{path} is not a store: its manifest.json lists no partitions; choose a folder that prepare wrote"
        )
    if manifest.get("format") not in READ_FORMATS:
        found, known = manifest.get("format"), " and ".join(map(str, READ_FORMATS))
        raise InputError(f"{path} is a store of format {found}, this version reads {known}; prepare it again")
    try:
        parsed = _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}/manifest.json is damaged ({where}: {first['msg']}); prepare the store again"
        ) from None
    for name in (parsed.folder, *parsed.eval.values()):
        if name and not lies_inside(path, name):
            raise InputError(f"{path}/manifest.json names {name!r:.80}, which lies outside of the store; {OTHER}")
    root = files_root(path, manifest)
    for name in (file.path for partition in parsed.partitions for file in (*partition.files, *partition.teacher)):
        if not lies_inside(root, name):
            raise InputError(f"{path}/manifest.json names {name!r:.80}, which lies outside of the store; {OTHER}")
    return manifest
