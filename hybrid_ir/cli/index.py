"""Commands that make an index and look through it: `index build`, `index verify`.

In: words of the command line. Out: an index folder, and what it holds as a table.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hybrid_ir.cli.options import Config, IndexFolder, IndexKeys, Verbose, check_read

Passages = Annotated[
    list[str],
    typer.Option(help="JSON lines, Parquet, a folder of them, a store, or an XQuAD-R folder; may be repeated."),
]


class _BuildByDefault(TyperGroup):
    """`hybrid-ir index --checkpoint ...` means `hybrid-ir index build --checkpoint ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["build", *args]
        return super().parse_args(ctx, args)


index_app = typer.Typer(
    cls=_BuildByDefault,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Build, verify and change an index. Without a word: build.",
)


@index_app.command()
def build(
    checkpoint: Annotated[str, typer.Option(help="Folder or hub name of the encoder.")],
    passages: Passages,
    out: Annotated[str, typer.Option(help="Folder to write the index to.")],
    vectors: Annotated[
        str | None,
        typer.Option(
            help="Vectors of the passages, instead of encoding them: a folder of `hybrid-ir encode`; Parquet of doc_id "
            "and vector (or embedding); or a .npy matrix."
        ),
    ] = None,
    trust_vectors: Annotated[
        bool, typer.Option("--trust-vectors", help="Take vectors that do not say that this encoder made them.")
    ] = False,
    config: Config = None,
    overrides: IndexKeys = None,
    verbose: Verbose = False,
) -> None:
    """Encode passages and write a sharded index. A build that was stopped goes on with the same command."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    check_read(overrides, "index", "index", "encoder")
    check_passages(passages)
    _check_vectors(vectors, trust_vectors)
    check_checkpoint(checkpoint)
    from hybrid_ir.cli.terminal import console

    begun = time.perf_counter()
    with encoding_job(out, "the index", verbose) as (folder, progress):
        from hybrid_ir.index import build_index

        manifest = build_index(
            checkpoint,
            passages,
            folder,
            experiment.index,
            seed=experiment.seed,
            pooling=experiment.encoder.pooling,
            prefixes=(experiment.encoder.query_prefix, experiment.encoder.passage_prefix),
            prompts=experiment.encoder.prompts,
            vectors=vectors,
            trust_vectors=trust_vectors,
            progress=progress,
        )
    console().print(f"index written to {out} in {time.perf_counter() - begun:.0f} s (space {manifest.space['id']})")
    print_index(manifest, out)
    if (taken := manifest.settings.get("vectors")) is not None:
        said = "this encoder made them"
        if taken["space"] is None:
            said = (
                f"trusted; their cosines with vectors that this encoder makes are {taken['agreement']:.3f} in the "
                f"median and {taken['lowest']:.3f} at the lowest"
            )
        console().print(
            f"vectors were taken from {taken['path']}: {said}; {taken['normalised']:,} were not of unit length, and "
            "are now"
        )


@index_app.command()
def verify(index: IndexFolder, config: Config = None, overrides: IndexKeys = None, verbose: Verbose = False) -> None:
    """Check files, checksums, counts, the encoder and recall."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    check_read(overrides, "index verify", "index")
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.encoders import quiet_libraries
    from hybrid_ir.index import verify_index

    if not verbose:
        quiet_libraries()
    manifest = verify_index(index, experiment.index, seed=experiment.seed)
    console().print(f"{index} is whole (version {manifest.index_version}, space {manifest.space['id']})")
    print_index(manifest, index)


def check_passages(passages: list[str]) -> None:
    """Refuse in a second, before Ray is started, what is not there."""
    from hybrid_ir.index import passages_at
    from hybrid_ir.storage import is_uri

    for path in passages:
        if not is_uri(path):
            passages_at(path)


def check_checkpoint(name: str) -> None:
    """Refuse in seconds, before Ray is started, what is no encoder."""
    from hybrid_ir.encoders import check_source

    check_source(name)


def _check_vectors(vectors: str | None, trusted: bool) -> None:
    """Refuse in a second what is not there, or does not say who made it."""
    from hybrid_ir.index import find_vectors
    from hybrid_ir.storage import is_uri
    from hybrid_ir.types import InputError

    if vectors is not None and not is_uri(vectors):
        find_vectors(vectors, trusted=trusted)
    elif vectors is None and trusted:
        raise InputError("--trust-vectors says that vectors are the encoder's, and there are none; give --vectors too")


@contextmanager
def encoding_job(place: str, what: str, verbose: bool) -> Iterator[tuple[str, Any]]:
    """A Ray to encode on, quiet unless `verbose`: the folder to write `what` to, and who is told of the progress."""
    from hybrid_ir.cli.progress import counter
    from hybrid_ir.cluster import ray_session, term_is_interrupt
    from hybrid_ir.encoders import quiet_libraries

    with (
        ray_session(verbose),
        term_is_interrupt(),
        counter("") as progress,
        _shared_folder(place, what) as folder,
    ):
        # With it comes Ray Data, which sets log levels of its own.
        from hybrid_ir.index import build_index as _  # noqa: F401

        if not verbose:
            quiet_libraries()
        yield folder, progress


@contextmanager
def _shared_folder(place: str, what: str) -> Iterator[str]:
    """Where a build writes. Its tasks share the folder, so one that a URI stands for is on the only node."""
    from hybrid_ir.cluster import live_nodes
    from hybrid_ir.storage import is_uri, written
    from hybrid_ir.types import InputError

    nodes = live_nodes()
    if is_uri(place) and nodes > 1:
        raise InputError(
            f"a build on {nodes} nodes needs a folder that all of them see, not {place}; build on such a folder and "
            "copy it, or start Ray on one node"
        )
    with unwritable(place, what), written(place) as folder:
        yield str(folder)


@contextmanager
def unwritable(place: str, what: str = "the index") -> Iterator[None]:
    """Raises InputError where the folder cannot be written to."""
    from hybrid_ir.types import InputError, one_line

    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # said for every command
        raise InputError(
            f"cannot write {what} at {place} ({one_line(error)}); what is done so far stays: once that is mended, "
            "the same command goes on"
        ) from error


def print_index(manifest: Any, index: str) -> None:
    from rich.table import Table

    from hybrid_ir.cli.terminal import console, counted

    table = Table(box=None, pad_edge=False)
    table.add_column("language")
    for name in ("passages", "recall@10", "filtered", "cut"):
        table.add_column(name, justify="right")
    for language, count in manifest.languages.items():
        recall = [manifest.recall[kind][language] for kind in ("unfiltered", "filtered")]
        cut = manifest.cut.get(language, 0) / count
        table.add_row(language, f"{count:,}", *(f"{value:.3f}" for value in recall), f"{cut:.1%}")
    sizes = " + ".join(f"{sum(shard.living.values()):,}" for shard in manifest.shards)
    nprobe = f", {manifest.nprobe} lists searched" if manifest.nprobe else ""
    out = console()
    out.print(table)
    shards = counted(len(manifest.shards), "shard")
    out.print(f"{counted(manifest.rows, 'passage')} in {shards} ({sizes}), codec {manifest.codec}{nprobe}")
    if manifest.pieces is not None:
        long, vectors = sum(manifest.pieces.long.values()), manifest.pieces.vectors
        out.print(
            f"cut into pieces of at most {manifest.pieces.tokens} tokens: {counted(long, 'passage')}; "
            f"{counted(vectors, 'vector')} in all"
        )
    if manifest.lexical is not None:
        out.print(f"their {manifest.lexical.words:,} words, {manifest.lexical.terms:,} different ones, can be searched")
    if dead := sum(shard.rows for shard in manifest.shards) - manifest.rows:
        out.print(f"still in the files: {counted(dead, 'deleted passage')}; hybrid-ir index compact --index {index}")
    print_left_out(manifest, f"{index}/rejected*.jsonl")


def print_left_out(manifest: Any, rejects: str) -> None:
    """What of the passages the vectors do not have."""
    from hybrid_ir.cli.terminal import console, counted

    out = console()
    cut = sum(manifest.cut.values())
    if cut:
        out.print(
            f"longer than the {manifest.space['max_tokens']} tokens that the encoder reads: {counted(cut, 'passage')} "
            f"({cut / manifest.rows:.1%}), whose ends cannot be found; index.pieces.tokens cuts them into pieces"
        )
    rejected = sum(manifest.rejected.values())
    if rejected:
        out.print(f"{counted(rejected, 'record')} rejected; each is in {rejects} with its reason")
