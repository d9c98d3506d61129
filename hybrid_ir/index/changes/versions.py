"""The versions of an index that are kept, side by side, and those that are forgotten.

In: an index folder. Out: the manifests of its versions, or fewer of them and of the files that only these named.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from hybrid_ir.index.folder import Manifest, read_manifest
from hybrid_ir.index.writing import alone
from hybrid_ir.types import InputError


def kept_versions(index: Path) -> list[Manifest]:
    """Manifests of all versions that are kept, the current one first, then what each was made from."""
    current = read_manifest(index)
    there = {path.stem: read_manifest(index, path.stem) for path in sorted((index / "versions").glob("*.json"))}
    there[current.index_version] = current
    order = [current]
    while (parent := order[-1].parent) in there and there[parent] not in order:
        order.append(there[parent])
    return [*order, *(manifest for manifest in there.values() if manifest not in order)]


def prune_versions(index: Path, keep: int) -> list[str]:
    """Forget all but the newest `keep` versions, then remove the files that none of the rest names; returns the
    versions that went. A version's manifest goes before its files, so that none is left that cannot be opened.

    Raises InputError while an addition is unfinished, because its files are not named yet, or while it is made.
    """
    read_manifest(index)  # where there is none, none is made
    with alone(index):
        return _prune(index, keep)


def _prune(index: Path, keep: int) -> list[str]:
    if (index / ".build").exists():
        raise InputError(
            f"{index} holds an unfinished addition; finish it by its own command, or delete {index}/.build"
        )
    versions = kept_versions(index)
    stay, go = versions[:keep], versions[keep:]
    for manifest in go:
        (index / "versions" / f"{manifest.index_version}.json").unlink()
    named = {name for manifest in stay for name in manifest.every_file}
    shards = {shard.name for manifest in stay for shard in manifest.shards}
    for pattern in ("rejected*.jsonl", "lists-*.npy", "lexical-*.arrow", "shards/*/deleted-*.npy"):
        for path in index.glob(pattern):
            if path.relative_to(index).as_posix() not in named:
                path.unlink()
    for path in (index / "shards").iterdir():
        if path.name not in shards:
            shutil.rmtree(path)
    return [manifest.index_version for manifest in go]
