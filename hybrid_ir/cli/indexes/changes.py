"""Commands that change an index: `index add`, `replace`, `delete`, `compact`, `prune`.

In: words of the command line. Out: a version of the index, and what it holds as a table.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hybrid_ir.cli.index import Passages, check_passages, encoding_job, print_index, unwritable
from hybrid_ir.cli.options import Config, IndexFolder, IndexKeys, Verbose, check_read


def add(
    index: IndexFolder, passages: Passages, config: Config = None, overrides: IndexKeys = None, verbose: Verbose = False
) -> None:
    """Add new passages as one more shard: a new version, beside the one that is there."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    check_read(overrides, "index add", "index")

    with encoding_job(index, "the index", verbose) as (folder, progress):
        from hybrid_ir.index import add_passages

        manifest = add_passages(folder, passages, experiment.index, seed=experiment.seed, progress=progress)
    from hybrid_ir.cli.terminal import counted

    last = manifest.shards[-1]
    _print_changed(f"{counted(last.rows, 'passage')} added to {index} as shard {last.name}", manifest, index)


def replace(
    index: IndexFolder, passages: Passages, config: Config = None, overrides: IndexKeys = None, verbose: Verbose = False
) -> None:
    """Put passages in the place of those with the same doc_ids, and add the others: a new version, beside the one that
    is there."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    check_read(overrides, "index replace", "index")
    check_passages(passages)
    from hybrid_ir.cli.terminal import counted
    from hybrid_ir.index import read_manifest

    before = read_manifest(index)
    with encoding_job(index, "the index", verbose) as (folder, progress):
        from hybrid_ir.index import replace_passages

        manifest = replace_passages(folder, passages, experiment.index, seed=experiment.seed, progress=progress)
    written = manifest.shards[-1].rows
    fate = f"{written - manifest.rows + before.rows:,} of them in the place of others"
    if manifest.parent != before.index_version:  # it was finished before, and is now found to be
        fate = "an earlier run of the same command had written them"
    _print_changed(f"{counted(written, 'passage')} written to {index}, {fate}", manifest, index)


def delete(
    index: IndexFolder,
    doc_ids: Annotated[str | None, typer.Option(help="Of the passages to delete, comma-separated.")] = None,
    file: Annotated[str | None, typer.Option(help="A text file with a doc_id in each line.")] = None,
    config: Config = None,
    overrides: IndexKeys = None,
) -> None:
    """Delete passages by their doc_ids: a new version, beside the one that is there."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    check_read(overrides, "index delete", "index")
    wanted = _doc_ids(doc_ids, file)
    from hybrid_ir.cli.progress import counter
    from hybrid_ir.cli.terminal import counted
    from hybrid_ir.encoders import quiet_libraries
    from hybrid_ir.index import delete_passages, read_manifest
    from hybrid_ir.storage import written

    quiet_libraries()
    read_manifest(index)
    with counter("") as progress, unwritable(index), written(index) as folder:
        manifest = delete_passages(str(folder), wanted, experiment.index, seed=experiment.seed, progress=progress)
    _print_changed(f"{counted(len(set(wanted)), 'passage')} deleted from {index}", manifest, index)


def compact(index: IndexFolder, config: Config = None, overrides: IndexKeys = None, verbose: Verbose = False) -> None:
    """Write a version without the passages that were deleted, and with few shards. It gives the same answers."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    check_read(overrides, "index compact", "index")
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.index import read_manifest

    before = read_manifest(index)
    with encoding_job(index, "the index", verbose) as (folder, progress):
        from hybrid_ir.index import compact_index

        manifest = compact_index(folder, experiment.index, seed=experiment.seed, progress=progress)
    if manifest.index_version == before.index_version:
        console().print(f"{index} has nothing to compact: version {manifest.index_version} has no deleted passages")
    else:
        _print_changed(f"{index} compacted", manifest, index)


def prune(
    index: IndexFolder, keep: Annotated[int, typer.Option(help="Versions to keep, the newest first; one at least.")] = 1
) -> None:
    """Remove older versions of an index, and the files that no other needs. A service must not serve them any more."""
    from hybrid_ir.types import InputError

    if keep < 1:
        raise InputError(
            f"--keep must be 1 or more, got {keep}: the current version stays; to have none, remove {index}"
        )
    from hybrid_ir.cli.terminal import console, counted
    from hybrid_ir.index import prune_versions, read_manifest
    from hybrid_ir.storage import written

    read_manifest(index)
    with unwritable(index), written(index) as folder:
        gone = prune_versions(folder, keep)
    console().print(f"{counted(len(gone), 'version')} of {index} removed{': ' if gone else ''}{' '.join(gone)}")


def _print_changed(what: str, manifest: Any, index: str) -> None:
    from hybrid_ir.cli.terminal import console

    console().print(
        f"{what}: version {manifest.index_version}; a service goes on with {manifest.parent} until: "
        f"hybrid-ir swap --index {index}"
    )
    print_index(manifest, index)


def _doc_ids(listed: str | None, file: str | None) -> list[str]:
    from pathlib import Path

    from hybrid_ir.data import read_lines
    from hybrid_ir.types import InputError

    if (listed is None) == (file is None):
        raise InputError("say which passages to delete: --doc-ids a,b or --file ids.txt, one of the two")
    lines = listed.split(",") if listed is not None else [line for _, line in read_lines(Path(file or ""))]
    if not (found := [line for line in lines if line.strip()]):
        raise InputError(f"{'--doc-ids' if file is None else file} names no doc_id; give one at least")
    return found
