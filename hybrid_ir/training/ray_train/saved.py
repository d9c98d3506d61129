"""The checkpoints that a run keeps to go on from. In: its folder or URI. Out: the newest that is whole.

RUN/ray/0001/checkpoint_.../ is one. Every start of the workers has a folder with a number of its own, so that nothing
which an earlier start left half written is in its way. The worker seals a checkpoint before Ray Train copies it there:
`checksums.json` has the size and the SHA-256 of every file. A copy that was cut off has no seal, or one that does not
fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from hybrid_ir.storage import open_filesystem
from hybrid_ir.types import InputError

SEAL = "checksums.json"


@dataclass(frozen=True)
class Saved:
    """A sealed checkpoint. It may have been changed since."""

    path: str
    """Inside the filesystem of the run."""
    done: int
    files: Mapping[str, Sequence[Any]]
    """Name -> [bytes, SHA-256]."""


def seal(folder: Path, done: int) -> None:
    """Write the checksums of a checkpoint after `done` steps."""
    files = {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest]
    (folder / SEAL).write_text(json.dumps({"done": done, "files": files}), encoding="utf-8")


def sealed_in(out: str) -> list[Saved]:
    """Sealed checkpoints of a run, the newest first. One without a readable seal was cut off while it was saved."""
    filesystem, inner = open_filesystem(out)
    found = []
    for info in filesystem.get_file_info(fs.FileSelector(f"{inner}/ray", recursive=True, allow_not_found=True)):
        folder, _, name = info.path.rpartition("/")
        if name != SEAL or not info.is_file:
            continue
        try:
            with filesystem.open_input_stream(info.path) as file:
                seal = json.loads(file.read())
            found.append(Saved(folder, int(seal["done"]), dict(seal["files"])))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return sorted(found, key=lambda each: (each.done, each.path), reverse=True)


def newest_whole(out: str, warn: Callable[[str], None]) -> Saved | None:
    """The newest checkpoint whose files all have their checksums; `warn` is told of those before it that do not."""
    filesystem, _ = open_filesystem(out)
    for each in sealed_in(out):
        damage = damage_of(filesystem, each)
        if damage is None:
            return each
        warn(f"the checkpoint after step {each.done} is damaged ({damage}), so the one before it is taken")
    return None


def damage_of(filesystem: fs.FileSystem, saved: Saved) -> str | None:
    """What is wrong with a file of the checkpoint; None if they are as they were saved."""
    for name, (size, digest) in saved.files.items():
        info = filesystem.get_file_info(f"{saved.path}/{name}")
        if not info.is_file:
            return f"{name} is missing"
        if info.size != size:
            return f"{name} has {info.size} bytes, not {size}"
        try:
            with filesystem.open_input_stream(info.path, compression=None) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        except (OSError, pa.ArrowException) as error:
            return f"{name} cannot be read: {error}"
        if found != digest:
            return f"{name} differs from its checksum"
    return None


def check_format(out: str) -> None:
    """Raise InputError for checkpoints of version 0.1, which have no checksums, and AdamW's state as a pickle."""
    filesystem, inner = open_filesystem(out)
    if filesystem.get_file_info(f"{inner}/ray/train").type == fs.FileType.Directory:
        raise InputError(
            f"{out} was left by version 0.1, whose checkpoints this version does not read; finish it with that "
            "version, or choose another out=FOLDER"
        )


def keep_only(out: str, kept: Sequence[Saved]) -> None:
    """Remove all other checkpoints of the run, those that were cut off as well."""
    filesystem, inner = open_filesystem(out)
    paths = {each.path for each in kept}
    for start in _folders(filesystem, f"{inner}/ray"):
        if not any(path.startswith(f"{start}/") for path in paths):
            filesystem.delete_dir(start)
            continue
        for folder in _folders(filesystem, start):
            if folder not in paths:
                filesystem.delete_dir(folder)


def remove_all(out: str) -> None:
    """A finished run goes on from nothing."""
    filesystem, inner = open_filesystem(out)
    if filesystem.get_file_info(f"{inner}/ray").type == fs.FileType.Directory:
        filesystem.delete_dir(f"{inner}/ray")


def next_start(out: str) -> str:
    """Name of the folder of a new start of the workers."""
    filesystem, inner = open_filesystem(out)
    names = [path.rpartition("/")[2] for path in _folders(filesystem, f"{inner}/ray")]
    return f"{1 + max((int(name) for name in names if name.isdigit()), default=0):04d}"


def _folders(filesystem: fs.FileSystem, path: str) -> list[str]:
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.path for info in infos if info.type == fs.FileType.Directory]
