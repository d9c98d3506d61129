"""What lets a build, or an addition, that was killed go on: a folder with a marker that says whose it is.

In: what is to be indexed, with what, and beside which version. Out: `INDEX/.build/`, claimed, or found to be finished.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import faiss
from safetensors import SafetensorError

from hybrid_ir.encoders import difference, load_encoder, save_encoder, space_of
from hybrid_ir.index.codec import train_codec
from hybrid_ir.index.fragments import Fragments
from hybrid_ir.index.passages import passages_at
from hybrid_ir.index.query import is_flat
from hybrid_ir.index.writing import write_faiss
from hybrid_ir.storage import write_json
from hybrid_ir.types import InputError, one_line

MARKER = "build.json"
LAST = ".build.json"
"""Where the marker is at the very end, beside the folder: one step then removes the last that is left."""


def inputs_of(passages: Sequence[str]) -> list[Any]:
    """Name, size and time of every file that is read: a build goes on only with the same."""
    files = []
    for path in map(passages_at, passages):
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            status = file.stat()
            files.append([str(file.absolute()), status.st_size, status.st_mtime_ns])
    return files


def claim(
    build: Path,
    inputs: list[Any],
    space: dict[str, Any],
    *,
    seed: int,
    precision: str,
    base: str | None = None,
    role: str = "document",
    resumable: bool = True,
    pieces: tuple[int, int] | None = None,
) -> None:
    """Start a build folder, or find that it holds the same build. `base` is the version that is changed, `role` what
    the texts are encoded as, `pieces` (tokens, overlap) how they are cut. What is not `resumable` gives way to any
    other: nothing is lost with it.

    Raises InputError if it is another's.
    """
    wanted = {"space": space, "inputs": inputs, "seed": seed, "precision": precision, "base": base, "role": role}
    if pieces is not None:
        wanted["pieces"] = list(pieces)
    if not resumable:
        wanted["resumable"] = False
    found = _marker(build)
    if found is None or not found.get("resumable", True):
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir(parents=True)
        write_json(build / MARKER, wanted)
        return
    if found["space"]["id"] != space["id"]:
        what = f"with another encoder (it differs in {difference(found['space'], space)})"
    elif found["space"].get("prompts") != space.get("prompts"):
        what = "with other prompts of tasks (encoder.prompts)"
    elif found["inputs"] != inputs:
        what = "of other passages or vectors, or another change, or they have changed since"
    elif found.get("seed") != seed:
        what = f"with seed={found.get('seed')}, not {seed}"
    elif found.get("precision") != precision:
        what = f"with index.precision={found.get('precision')}, not {precision}"
    elif found.get("pieces") != wanted.get("pieces"):
        said = [_typed(how) for how in (found.get("pieces"), pieces)]
        what = f"with {said[0]}, not {said[1]}"
    elif found.get("role", "document") != role:
        what = f"with --role {found.get('role')}, not {role}"
    else:
        return
    remedy = "delete it, or choose another --out" if base is None else "finish it by its own command, or delete it"
    raise InputError(f"{build} holds an unfinished build {what}; {remedy}")


def _typed(pieces: Sequence[int] | None) -> str:
    """(tokens, overlap) as they are typed."""
    tokens, overlap = pieces or (None, None)
    return "index.pieces.tokens=null" if tokens is None else f"index.pieces.tokens={tokens} and .overlap={overlap}"


def is_finished(build: Path, inputs: list[Any], current: str, *, addition: bool) -> bool:
    """Whether the folder is what is left of this very build (or addition), which was killed after it had published
    `current`. What another one left behind is removed."""
    found = _marker(build) or _read(build.with_name(LAST))
    if found is None:
        with suppress(OSError):  # an earlier version removed the marker before the folder
            build.rmdir()
    if found is None or (addition and found.get("base") == current):
        return False
    same = found["inputs"] == inputs and (found.get("base") is not None) == addition
    if same or addition:
        clear(build)
    return same


def clear(build: Path) -> None:
    """Remove the folder, and last of all its marker: as long as that is there, it says what is finished."""
    if build.is_dir():
        for path in build.iterdir():
            if path.name != MARKER:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        with suppress(FileNotFoundError):  # it has been moved already, by one that was killed then
            os.replace(build / MARKER, build.with_name(LAST))
        build.rmdir()
    build.with_name(LAST).unlink(missing_ok=True)


def keep_encoder(model: Any, space: dict[str, Any], partial: Path, place: Path, checkpoint: str) -> None:
    """Save the encoder at `partial` and rename it to `place`, unless it is there. The actors load it from there: what
    is served is what encoded.

    Raises InputError where it is another one once it is loaded again.
    """
    if not place.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        try:
            save_encoder(model, partial)
        except SafetensorError as error:
            raise OSError(errno.EIO, f"the encoder could not be saved ({one_line(error)})", str(partial)) from error
        os.replace(partial, place)
    saved = space_of(load_encoder(str(place)))
    if saved["id"] != space["id"]:
        raise InputError(
            f"the encoder {checkpoint} does not survive being saved: its {difference(space, saved)} changed"
        )


def codec_of(build: Path, codec: str, fragments: Fragments, dimension: int, seed: int) -> Any:
    """The trained codec: that of an earlier try, which its shards have, or one that is trained now."""
    if is_flat(codec):
        return train_codec(codec, fragments, dimension, seed)
    marker, place = build / "codec.json", build / "codec.faiss"
    wanted = {"codec": codec, "seed": seed}
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == wanted:
        return faiss.read_index(str(place))
    for stale in build.glob("shard-*.json"):
        stale.unlink()  # of another codec
    marker.unlink(missing_ok=True)
    trained = train_codec(codec, fragments, dimension, seed)
    write_faiss(trained, place)
    write_json(marker, wanted)
    return trained


def copy_file(source: Path, place: Path) -> None:
    """Copy, then rename into place."""
    partial = place.with_name(f".{place.name}.partial")
    shutil.copyfile(source, partial)
    os.replace(partial, place)


def _marker(build: Path) -> dict[str, Any] | None:
    if build.is_symlink():
        raise InputError(f"{build} is a link, and what is in it would be removed in the end; remove the link")
    return _read(build / MARKER)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
