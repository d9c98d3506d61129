"""Shards: fragments are cut into them, each is written to its files, and the manifest that names them is published.

In: encoded fragments and the trained codec. Out: `INDEX/shards/NAME/` and, last of all, `INDEX/manifest.json`.
"""

from __future__ import annotations

import datetime
import platform
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import hybrid_ir
from hybrid_ir.index.exact import BLOCK
from hybrid_ir.index.folder import FORMAT, Manifest, ShardEntry, describe_files, version_of
from hybrid_ir.index.fragments import Fragments
from hybrid_ir.index.passages import write_passages
from hybrid_ir.index.query import is_flat
from hybrid_ir.index.shard import Shard, open_shard
from hybrid_ir.storage import write_json


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
) -> ShardEntry:
    """Write one shard's files. `ids` are rows of the fragments, sorted by language; plus `first_id` they are global."""
    folder = index / "shards" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    flat = is_flat(codec)
    kept = None if flat else np.lib.format.open_memmap(
        folder / "vectors.f16.npy", mode="w+", dtype=np.float16, shape=(len(ids), trained.d)
    )  # fmt: skip
    for start in range(0, len(ids), BLOCK):
        vectors = fragments.vectors(ids[start : start + BLOCK])
        trained.add(vectors)
        if kept is not None:
            kept[start : start + BLOCK] = vectors
    if kept is not None:
        kept.flush()
    faiss.write_index(trained, str(folder / "vectors.faiss"))
    np.save(folder / "ids.npy", ids.astype(np.int64) + first_id)
    write_passages(folder / "passages.arrow", fragments.passages(ids), keys)
    codes = fragments.row_languages()[ids]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    ends = np.append(starts[1:], len(codes))
    languages = {fragments.languages[codes[a]]: (int(a), int(b)) for a, b in zip(starts, ends, strict=True)}
    names = sorted(f"shards/{name}/{path.name}" for path in folder.iterdir())
    return ShardEntry(name=name, rows=len(ids), languages=languages, files=describe_files(index, names))


def open_shards(index: Path, manifest: Manifest, *, checksums: bool = True) -> list[Shard]:
    return [open_shard(index, manifest, n, checksums=checksums) for n in range(len(manifest.shards))]


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
    nprobe: int = 0,
    recall: dict[str, Any] | None = None,
) -> Manifest:
    """The manifest of the files that are there; `publish` writes it."""
    languages: Counter[str] = Counter()
    for shard in shards:
        languages.update({name: end - start for name, (start, end) in shard.languages.items()})
    beside = [path for path in ("codec.faiss", "rejected.jsonl") if (index / path).is_file()]
    beside += sorted(str(path.relative_to(index)) for path in (index / "encoder").rglob("*") if path.is_file())
    return Manifest(
        format=FORMAT,
        index_version=version_of(space, codec, nprobe, list(shards)),
        space=space,
        probes=probes.astype(float).tolist(),
        codec=codec,
        nprobe=nprobe,
        sharding=sharding,
        languages=dict(sorted(languages.items())),
        metadata_keys=list(keys),
        shards=list(shards),
        files=describe_files(index, beside),
        recall=recall or {},
        rejected=rejected,
        settings=settings,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={"hybrid-ir": hybrid_ir.__version__, "faiss": faiss.__version__, "python": platform.python_version()},
    )


def publish(index: Path, manifest: Manifest) -> None:
    """Write the manifest, last of all, in one step: before it there is no index, or the old one."""
    write_json(index / "manifest.json", manifest.model_dump(mode="json"))
