"""Where a store is written until it is whole.

In: where the store is to stand. Out: a place to write it; it then takes the place of an old one from one moment to the
next. Until then the old store is whole and can be read, and so it stays if the new one fails.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import fs

from hybrid_ir.storage import lies_inside, open_filesystem, replace_folder
from hybrid_ir.types import InputError, one_line


def refuse_existing(out: str) -> None:
    """Raise InputError where something is at `out` already, for who must not write over it."""
    filesystem, inner = open_filesystem(out)
    if filesystem.get_file_info(inner).type != fs.FileType.NotFound:
        raise InputError(f"{out} exists; choose another --out")


@contextmanager
def staged(path: str) -> Iterator[tuple[str, str]]:
    """Where to write a store that is to be at `path`, its manifest.json last; and what is its folder below `path`.

    A local store is written beside its place and moved there whole: its folder is "", `path` itself. An object store
    moves nothing, so there every store has a folder of its own name below `path`, which its manifest gives. The
    manifest is put at `path` in one step, and then what it does not name is deleted. Raises InputError where `path` is
    a file, holds something that is not a store, is being written by another process, or cannot be written to, at the
    beginning or later. A full disk is an OSError.
    """
    try:
        with _staged(path) as place:
            yield place
    except OSError as error:
        if any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
            raise
        raise InputError(
            f"cannot write the store at {path} ({one_line(error)}); what was there is as it was, and when the place "
            "can be written to the same command makes the store"
        ) from error


@contextmanager
def _staged(path: str) -> Iterator[tuple[str, str]]:
    filesystem, inner = open_filesystem(path)
    occupied = filesystem.get_file_info(inner)
    if occupied.type == fs.FileType.File:
        raise InputError(f"{path} is a file; choose another folder with store=FOLDER")
    entries = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    others = [entry for entry in entries if not entry.base_name.startswith(_PREFIX)]
    if others and not _holds_a_store(filesystem, inner):
        raise InputError(
            f"{path} holds something that is not a store, so it is left alone; choose another store=FOLDER"
        )
    if isinstance(filesystem, fs.LocalFileSystem):
        with _beside(Path(inner).resolve(), path) as stage:  # a link to a folder stays, and leads to the new store
            yield str(stage), ""
        return
    folder = f"{_PREFIX}{secrets.token_hex(4)}"
    try:
        yield f"{path.rstrip('/')}/{folder}", folder
        with filesystem.open_input_stream(f"{inner}/{folder}/manifest.json") as stream:
            manifest = stream.read()
    except BaseException:
        with suppress(OSError):  # the storage is lost: the next one removes it
            filesystem.delete_dir_contents(f"{inner}/{folder}", missing_dir_ok=True)
        raise
    # Whoever is stopped from here on deletes nothing: this manifest may be there already.
    with filesystem.open_output_stream(f"{inner}/manifest.json") as stream:
        stream.write(manifest)
    filesystem.delete_file(f"{inner}/{folder}/manifest.json")
    for entry in entries:  # the old store, and what killed processes left
        if entry.type == fs.FileType.Directory:
            filesystem.delete_dir(entry.path)
        elif entry.base_name != "manifest.json":
            filesystem.delete_file(entry.path)


def take_over(old: str, root: str, also: Iterable[str] = ()) -> None:
    """Copy from a store to a new one what does not change with its groups: documents with their splits, and what was
    rejected; and the files `also`, which are named from the store's root. Raises InputError for a link out of it."""
    source, inner = open_filesystem(old)
    target, place = open_filesystem(root)
    found = source.get_file_info(fs.FileSelector(f"{inner}/rejected", allow_not_found=True))
    besides = ["splits.parquet", *(f"rejected/{entry.base_name}" for entry in found if entry.is_file)]
    for name in (*besides, *also):
        if not lies_inside(old, name):
            raise InputError(f"{old}/{name} is a link out of the store; put the file itself there")
        if name not in besides or source.get_file_info(f"{inner}/{name}").is_file:
            target.create_dir(f"{place}/{name}".rpartition("/")[0], recursive=True)
            fs.copy_files(f"{inner}/{name}", f"{place}/{name}", source_filesystem=source, destination_filesystem=target)


_PREFIX = "store-"


@contextmanager
def _beside(place: Path, path: str) -> Iterator[Path]:
    """A folder beside `place` that is moved there at the end, or deleted with the parents made for it."""
    stage = place.with_name(f"{place.name}.partial")
    new_parents = [parent for parent in place.parents if not parent.exists()]
    try:
        stage.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write a store at {path}: {error.strerror}; choose another store=FOLDER") from error
    lock = os.open(stage, os.O_RDONLY)
    try:
        try:
            # It ends with the process, however that ends: what is in the folder then was left by one that was killed.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is writing {path}; wait, or choose another store=FOLDER") from None
        except OSError:
            pass  # a file system without locks
        try:
            for left in stage.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield stage
            replace_folder(stage, place)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            for parent in new_parents:
                with suppress(OSError):
                    parent.rmdir()
            raise
    finally:
        os.close(lock)


def _holds_a_store(filesystem: fs.FileSystem, inner: str) -> bool:
    """A run and a checkpoint have a manifest.json too: they are not to be overwritten."""
    try:
        with filesystem.open_input_stream(f"{inner}/manifest.json") as stream:
            manifest = json.loads(stream.read())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"format", "partitions"} <= manifest.keys()
