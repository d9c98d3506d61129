"""Shards: fragments are cut into them, each is written to its files, and the manifest that names them is published.

In: encoded fragments and the trained codec. Out: `INDEX/shards/NAME/` and, last of all, `INDEX/manifest.json`.
Also who may write an index, and what becomes of the versions that it had before.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np

import hybrid_ir
from hybrid_ir.index.folder import (
    FORMAT,
    WITH_DELETED,
    WITH_PIECES,
    WITH_WORDS,
    File,
    LexicalOf,
    Manifest,
    ShardEntry,
    checksum_of,
    describe_files,
    read_manifest,
)
from hybrid_ir.index.fragments import Fragments, save_array
from hybrid_ir.index.pieces.counts import count_pieces
from hybrid_ir.index.pieces.table import PIECES
from hybrid_ir.index.query import CANDIDATES, is_flat
from hybrid_ir.index.searching.exact import BLOCK
from hybrid_ir.index.searching.lists import list_sizes
from hybrid_ir.index.searching.nearest import NearestLists
from hybrid_ir.index.shard import Shard, open_shard
from hybrid_ir.index.terms.written import write_terms
from hybrid_ir.index.tombstones import save_by_content
from hybrid_ir.storage import write_json
from hybrid_ir.types import InputError, one_line

BLOCK_OF_LONG = 1024
"""Passages in pieces whose vectors are copied at a time."""


class BeingWritten(InputError):
    """Another process writes the index at this moment."""


@contextmanager
def alone(index: Path) -> Iterator[None]:
    """Nobody else writes this index until the block ends. Raises BeingWritten if somebody does.

    The lock is the system's, of the folder itself: it leaves no file, and ends with the process, however that ends.
    Folders that had to be made for it are removed again if nothing was put there.
    """
    made = [folder for folder in (index, *index.parents) if not folder.exists()]
    index.mkdir(parents=True, exist_ok=True)
    lock = os.open(index, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BeingWritten(
                f"another process is building {index}, or adding to it or pruning it; wait until it has ended, then "
                "run the same command"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(lock)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def cut_shards(
    row_languages: np.ndarray, names: Sequence[str], shards: int, sharding: str, seed: int
) -> list[np.ndarray]:
    """Global ids of each shard, sorted by language name, then id. Sizes differ by at most one."""
    by_name = np.argsort(np.argsort(np.asarray(names)))  # language number -> place of its name in the alphabet
    # Stable, so by id within a language. On 16 bits numpy's is a radix sort: 16 bytes a passage at its peak, then 8.
    order = np.argsort(by_name.astype(np.int16)[row_languages], kind="stable")
    if sharding == "random":
        lot = np.random.default_rng(seed).permutation(len(order))
        return [order[np.sort(part)] for part in np.array_split(lot, shards)]
    return np.array_split(order, shards)


def write_one_shard(
    index: Path,
    name: str,
    ids: np.ndarray,
    first_id: int,
    fragments: Fragments,
    trained: Any,
    codec: str,
    keys: Sequence[str],
    lexical: bool = False,
) -> ShardEntry:
    """Write one shard's files, with `lexical` those of its words too. `ids` are rows of the fragments, sorted by
    language; plus `first_id` they are global."""
    folder = index / "shards" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    flat, step, count = is_flat(codec), BLOCK, len(ids)
    if fragments.in_pieces:
        pieces = fragments.pieces(ids)
        save_array(folder / PIECES, pieces)
        step, count = BLOCK_OF_LONG, len(pieces)
    halves = None if flat else (folder / "vectors.f16.npy").open("wb")
    with halves or nullcontext():
        if halves is not None:
            begin_halves(halves, count, trained.d)
        for start in range(0, len(ids), step):
            vectors = fragments.vectors(ids[start : start + step])
            trained.add(vectors)
            if halves is not None:
                halves.write(vectors.astype("<f2").tobytes())
    write_faiss(trained, folder / "vectors.faiss")
    save_array(folder / "ids.npy", ids.astype(np.int64) + first_id)
    fragments.copy_passages(ids, keys, folder / "passages.arrow")
    if lexical:
        write_terms(folder)
    return describe_shard(index, name, fragments.row_languages()[ids], fragments.languages)


def describe_shard(index: Path, name: str, row_languages: np.ndarray, languages: Sequence[str]) -> ShardEntry:
    """The manifest's entry of a shard whose files are written. row_languages: (rows,) numbers in `languages`."""
    starts = np.flatnonzero(np.diff(row_languages, prepend=-1))
    ends = np.append(starts[1:], len(row_languages))
    ranges = {languages[int(row_languages[a])]: (int(a), int(b)) for a, b in zip(starts, ends, strict=True)}
    names = sorted(f"shards/{name}/{path.name}" for path in (index / "shards" / name).iterdir())
    return ShardEntry(name=name, rows=len(row_languages), languages=ranges, files=describe_files(index, names))


def begin_halves(file: BinaryIO, rows: int, dimension: int) -> None:
    """Write the head of a .npy of float16. It is written and not mapped: of a mapped file a full disk is a signal that
    kills, and no error."""
    header = {"descr": "<f2", "fortran_order": False, "shape": (rows, dimension)}
    np.lib.format.write_array_header_1_0(file, header)


def write_faiss(index: Any, path: Path) -> None:
    """Raises OSError where the file cannot be written. faiss' own writer does not look whether its last bytes were."""
    try:
        with path.open("wb") as file:
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # pyright: ignore[reportAttributeAccessIssue]
    except RuntimeError as error:
        raise OSError(errno.EIO, f"faiss could not write it ({one_line(error)[-80:]})", str(path)) from error


def count_lists(index: Path, shards: Sequence[Shard]) -> dict[str, File]:
    """Count the passages of each language in each inverted list over all shards, for them to know when they have
    visited enough lists; the manifest's entry of the file that holds it, none for Flat."""
    totals = shards[0].totals
    if is_flat(totals.codec):
        return {}
    counts = np.zeros((len(totals.languages), shards[0].lists), dtype=np.int64)
    row = {language: n for n, language in enumerate(sorted(totals.languages))}
    for shard in shards:
        for language, sizes in list_sizes(shard).items():
            if language in row:  # of a language that is deleted, none is
                counts[row[language]] += sizes
    stem = f"lists-{shards[-1].entry.name}"
    if all(shard.living is None for shard in shards):
        name = f"{stem}.npy"
        save_array(index / name, counts)
    else:  # an earlier version may have counted more in the same shards
        name = save_by_content(index, stem, counts)
    for shard in shards:
        shard.totals = replace(shard.totals, counts=counts)
    return describe_files(index, [name])


def open_shards(index: Path, manifest: Manifest, *, checksums: bool = True) -> list[Shard]:
    nearest = NearestLists()
    shards = range(len(manifest.shards))
    return [open_shard(index, manifest, n, checksums=checksums, nearest=nearest) for n in shards]


def make_manifest(
    index: Path,
    *,
    space: dict[str, Any],
    probes: np.ndarray,
    codec: str,
    sharding: str,
    shards: Sequence[ShardEntry],
    keys: Sequence[str],
    rejected: dict[str, int],
    settings: dict[str, Any],
    files: dict[str, File] | None = None,
    parent: str | None = None,
    nprobe: int = 0,
    candidates: int = CANDIDATES,
    recall: dict[str, Any] | None = None,
    cut: dict[str, int] | None = None,
    pieces: tuple[int, int] | None = None,
    lexical: LexicalOf | None = None,
) -> Manifest:
    """The manifest of the shards and of the files beside them; `publish` writes it. Without `files`: all there are.
    `pieces` (tokens, overlap) is how long passages were cut; None = not at all. `lexical` is what `count_words`
    found."""
    languages: Counter[str] = Counter()
    for shard in shards:
        languages.update(shard.living)
    if files is None:
        beside = [path for path in ("codec.faiss", "rejected.jsonl") if (index / path).is_file()]
        beside += sorted(str(path.relative_to(index)) for path in (index / "encoder").rglob("*") if path.is_file())
        files = describe_files(index, beside)
    format_ = FORMAT if all(shard.deleted is None for shard in shards) else WITH_DELETED
    format_ = format_ if pieces is None else WITH_PIECES
    return Manifest(
        format=format_ if lexical is None else WITH_WORDS,
        index_version=version_of(space, codec, nprobe, candidates, list(shards)),
        space=space,
        probes=probes.astype(float).tolist(),
        codec=codec,
        nprobe=nprobe,
        candidates=candidates,
        sharding=sharding,
        languages=dict(sorted(languages.items())),
        metadata_keys=list(keys),
        shards=list(shards),
        files=files,
        recall=recall or {},
        rejected=rejected,
        settings=settings,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={"hybrid-ir": hybrid_ir.__version__, "faiss": faiss.__version__, "python": platform.python_version()},
        parent=parent,
        cut=cut or {},
        pieces=None if pieces is None else count_pieces(index, shards, *pieces),
        lexical=lexical,
    )


def publish(index: Path, manifest: Manifest) -> Manifest:
    """Make this the current version, in one step and last of all: before it there is no index, or the old version."""
    content = manifest.model_dump(mode="json")
    content["checksum"] = checksum_of(json.loads(json.dumps(content)))
    write_json(index / "manifest.json", content)
    # Not before: a version that never became the current one would be left of a build that is killed in between.
    keep_version(index)
    return manifest.model_copy(update={"checksum": content["checksum"]})


def keep_version(index: Path) -> None:
    """Have the current version's manifest under its own name too, where it stays when another one is current. It is not
    there in format 1, nor when a build was killed just after it had published."""
    current = read_manifest(index)
    place = index / "versions" / f"{current.index_version}.json"
    if not place.is_file():
        write_json(place, json.loads((index / "manifest.json").read_text(encoding="utf-8")))


def version_of(space: dict[str, Any], codec: str, nprobe: int, candidates: int, shards: list[ShardEntry]) -> str:
    """Hash of what an answer depends on."""
    content = [space["id"], codec, nprobe, [shard.model_dump(mode="json") for shard in shards]]
    if candidates != CANDIDATES:  # not always: an index of before keeps its version
        content.append(candidates)
    if prompts := space.get("prompts"):  # those of tasks are no part of the space, and requests name them
        content.append(prompts)
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()
