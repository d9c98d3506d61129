"""Where a store is written until it is whole.

In: where the store is to stand. Out: a place to write it; a local store then appears there whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import fs

from hybrid_ir.storage import open_filesystem
from hybrid_ir.types import InputError


@contextmanager
def staged(path: str) -> Iterator[str]:
    """The folder or URI to write a store in, which is at `path` when the context ends, and gone when it fails.

    A local store is built beside its place and moved there. On an object store it is written in place, after what was
    there is deleted. Raises InputError where `path` is a file, holds something that is not a store, or is read-only.
    """
    filesystem, inner = open_filesystem(path)
    occupied = filesystem.get_file_info(inner)
    if occupied.type == fs.FileType.File:
        raise InputError(f"{path} is a file; choose another folder with store=FOLDER")
    is_store = _holds_a_store(filesystem, inner)
    if occupied.type == fs.FileType.Directory and not is_store and filesystem.get_file_info(fs.FileSelector(inner)):
        raise InputError(
            f"{path} holds something that is not a store, so it is left alone; choose another store=FOLDER"
        )
    if not isinstance(filesystem, fs.LocalFileSystem):
        if is_store:
            filesystem.delete_dir_contents(inner)
        try:
            yield path
        except BaseException:
            filesystem.delete_dir_contents(inner, missing_dir_ok=True)
            raise
        return
    place = Path(inner).resolve()  # a link to a folder stays, and leads to the new store
    stage = place.with_name(f"{place.name}.partial-{os.getpid()}")
    new_parents = [parent for parent in place.parents if not parent.exists()]
    try:
        stage.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write a store at {path}: {error.strerror}; choose another store=FOLDER") from error
    try:
        yield str(stage)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        for parent in new_parents:
            with suppress(OSError):
                parent.rmdir()
        raise
    old = place.with_name(f"{place.name}.old-{os.getpid()}")
    if place.exists():
        place.rename(old)
    stage.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _holds_a_store(filesystem: fs.FileSystem, inner: str) -> bool:
    """A run and a checkpoint have a manifest.json too: they are not to be overwritten."""
    try:
        with filesystem.open_input_stream(f"{inner}/manifest.json") as stream:
            manifest = json.loads(stream.read())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"format", "partitions"} <= manifest.keys()
