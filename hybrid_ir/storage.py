"""Where files are, and how they are written: folders, and URIs that pyarrow's filesystems open (s3://, gs://, file://).

In: a path or URI. Out: a folder to work in. What a URI names is fetched into a cache when it is read, and put back when
it was written. `write_json` replaces one file in one step, so that a reader never sees half of it.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from hybrid_ir.cache import cached
from hybrid_ir.types import InputError, Interrupted, one_line


def is_uri(path: str) -> bool:
    return "://" in path


def absolute(path: str) -> str:
    """A path as processes that stand elsewhere find it; a URI as it is."""
    return path if is_uri(path) else os.path.abspath(path)


def lies_inside(folder: str, name: str) -> bool:
    """Whether a name in somebody's manifest is that of a file in its folder: no `..`, and no link that leads out."""
    if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
        return False
    place = Path(folder.removeprefix("file://"))
    return is_uri(str(place)) or (place / name).resolve().is_relative_to(place.resolve())


def open_filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path or URI, and the path inside it. Raises InputError for a scheme nobody serves."""
    if not is_uri(str(path)):
        return fs.LocalFileSystem(), str(Path(path).absolute())
    try:
        return fs.FileSystem.from_uri(str(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"cannot open {path} ({one_line(error)}); use a folder, or a URI such as s3://") from error


def fetch(path: str) -> str:
    """A local copy of the file or folder at a URI; a plain path as it is.

    Copies stay in the user's cache (`$XDG_CACHE_HOME/hybrid_ir`), one for each state of what is there by names, sizes
    and times, until the cache is too large. Raises InputError where nothing is.
    """
    if not is_uri(path):
        return path
    filesystem, inner = open_filesystem(path)
    found = _files(filesystem, inner, path)
    if not found:
        raise InputError(f"there is nothing at {path}")
    name = inner.rstrip("/").rpartition("/")[2]
    return str(
        cached((path, sorted(found.items())), lambda at: _copy(filesystem, inner, found, at / name, path)) / name
    )


def fetch_files(path: str, files: Mapping[str, tuple[int, str]]) -> str:
    """A folder with these files of the one at a URI, and no others; a plain path as it is.

    `files` are their sizes and checksums (blake2b of 16 bytes) by name. A copy is known by those: it stays the same
    whatever else changes at the URI. Raises InputError for a file that is not there, or is not what it should be.
    """
    if not is_uri(path):
        return path

    def copy(at: Path) -> None:
        filesystem, inner = open_filesystem(path)
        there = _files(filesystem, inner, path)
        for name, (size, checksum) in files.items():
            if name not in there:
                raise InputError(f"{path}/{name} is missing; put the folder there again")
            if there[name][0] != size:
                raise InputError(
                    f"{path}/{name} is truncated or corrupt: it has {there[name][0]} bytes, not {size}; "
                    "put the folder there again"
                )
            _copy(filesystem, inner, {name: there[name]}, at, path)
            with (at / name).open("rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            if found != checksum:
                raise InputError(
                    f"{path}/{name} is corrupt: its checksum is not {checksum}; put the folder there again"
                )

    return str(cached(sorted(files.items()), copy))


def read_file(path: str, name: str) -> bytes:
    """One file of a folder, or of a URI without fetching the rest. Raises FileNotFoundError, or InputError."""
    if not is_uri(path):
        return (Path(path) / name).read_bytes()
    filesystem, inner = open_filesystem(path)
    try:
        with filesystem.open_input_stream(f"{inner.rstrip('/')}/{name}") as stream:
            return stream.read()
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path}/{name}: {one_line(error)}") from error


def sizes_of(path: str) -> dict[str, int]:
    """Size of every file below a URI, by its path there."""
    filesystem, inner = open_filesystem(path)
    return {name: size for name, (size, _) in _files(filesystem, inner, path).items()}


@contextmanager
def written(path: str, leave: Sequence[str] = ()) -> Iterator[Path]:
    """The folder to write for `path`: itself, or for a URI a local one with what is there, put back at the end.

    Put back however the context ends (a stopped training leaves what it saved), what is not there any more removed.
    `leave` names what others write at its top: neither fetched nor touched.
    """
    with written_in_steps(path, leave) as (folder, _):
        yield folder


@contextmanager
def written_in_steps(path: str, leave: Sequence[str] = ()) -> Iterator[tuple[Path, Callable[[], None]]]:
    """As `written`, and a function that puts back what was written so far: what a killed process is to leave.

    The function raises InputError where the place cannot be written to, or another has changed its manifest.json
    since, and may be called again.
    """
    if not is_uri(path):
        yield Path(path), lambda: None
        return
    filesystem, inner = open_filesystem(path)
    try:
        filesystem.create_dir(inner, recursive=True)  # a bucket that cannot be written to is said now
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot write to {path}: {one_line(error)}") from error
    scratch = Path(tempfile.mkdtemp(prefix="hybrid-ir-"))
    folder = scratch / (inner.rstrip("/").rpartition("/")[2] or "out")
    folder.mkdir()
    there = {n: f for n, f in _files(filesystem, inner, path).items() if n.partition("/")[0] not in leave}
    _copy(filesystem, inner, there, folder, path)
    before, seen = _times(folder, leave), _manifest(str(folder))

    def put_back() -> None:
        nonlocal before, seen
        now, ours = _times(folder, leave), _manifest(str(folder))
        keep = f"what was to go there is in {folder}"
        try:
            # What names all other files: whoever has changed it works on the same place.
            theirs = _manifest(path)
            if theirs in (seen, ours):
                _put_back(filesystem, inner, folder, before, now)
        except (OSError, InputError, pa.ArrowException) as error:
            raise InputError(
                f"cannot write to {path}: {one_line(error)}; once it answers again, run the same command; {keep}"
            ) from error
        if theirs not in (seen, ours):
            raise InputError(
                f"{path} was changed by another command meanwhile, so it is left as that has it; run this one again; "
                f"{keep}"
            )
        before, seen = now, ours

    try:
        yield folder, put_back
    except (InputError, Interrupted) as error:
        raise type(error)(str(error).replace(str(folder), path)) from error
    finally:
        put_back()
        shutil.rmtree(scratch)


def _manifest(path: str) -> bytes | None:
    try:
        return read_file(path, "manifest.json")
    except FileNotFoundError:
        return None


def put(folder: Path, path: str) -> None:
    """Copy a local folder to a URI."""
    filesystem, inner = open_filesystem(path)
    _put_back(filesystem, inner, folder, {}, _times(folder))


def write_json(path: Path, value: Any) -> None:
    """Write, then rename into place: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def replace_folder(new: Path, place: Path) -> None:
    """Put the finished folder `new`, on the same file system, at `place`, then delete what was there.

    Linux exchanges the two names in one step, so that one or the other is at `place` at every moment. Where it cannot
    (NFS), nothing is there between two renames; whoever is killed then leaves the old beside it, as NAME.old.
    """
    if place.exists() and not _exchange(new, place):
        old = place.with_name(f"{place.name}.old")
        shutil.rmtree(old, ignore_errors=True)  # left by one that was killed
        place.rename(old)
        new.rename(place)
        new = old
    elif not place.exists():
        new.rename(place)
    shutil.rmtree(new, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Whether two names were exchanged in one step: renameat2(2), which Python does not have."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2 is not None and renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


_State = tuple[int, int]


def _files(filesystem: fs.FileSystem, inner: str, path: str) -> dict[str, _State]:
    """Size and time (ns) of every file below `inner` by its path there; of a file, itself by the empty name."""
    try:
        own = filesystem.get_file_info(inner)
        if own.type == fs.FileType.File:
            return {"": (own.size, own.mtime_ns or 0)}
        infos = filesystem.get_file_info(fs.FileSelector(inner, recursive=True, allow_not_found=True))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path}: {one_line(error)}") from error
    start = len(inner.rstrip("/")) + 1
    return {i.path[start:]: (i.size, i.mtime_ns or 0) for i in infos if i.type == fs.FileType.File}


def _copy(filesystem: fs.FileSystem, inner: str, names: dict[str, _State], target: Path, path: str) -> None:
    for name in names:
        place = target / name if name else target
        if not place.resolve().is_relative_to(target.resolve()):
            raise InputError(f"{path} has a file named {name!r}, which would lie outside of its copy; remove it")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filesystem.open_input_stream(f"{inner}/{name}" if name else inner) as source, place.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"cannot read {path}/{name}: {one_line(error)}") from error


def _times(folder: Path, leave: Sequence[str] = ()) -> dict[str, _State]:
    files = {p.relative_to(folder): p.stat() for p in folder.rglob("*") if p.is_file()}
    return {n.as_posix(): (stat.st_size, stat.st_mtime_ns) for n, stat in files.items() if n.parts[0] not in leave}


def _put_back(
    filesystem: fs.FileSystem, inner: str, folder: Path, before: dict[str, _State], now: dict[str, _State]
) -> None:
    changed = [name for name, state in now.items() if before.get(name) != state]
    # Manifests last: whoever sees one sees what it names.
    for parent in {f"{inner}/{name}".rpartition("/")[0] for name in changed}:
        filesystem.create_dir(parent, recursive=True)
    for name in sorted(changed, key=lambda name: (name.rpartition("/")[2] == "manifest.json", name)):
        with (folder / name).open("rb") as source, filesystem.open_output_stream(f"{inner}/{name}") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    for name in before.keys() - now.keys():
        filesystem.delete_file(f"{inner}/{name}")
