"""The command line's second half: index, serve, search, swap, rollback."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hybrid_ir.cli.options import Config, Verbose

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example index.shards=4 serve.port=8001")
]
Passages = Annotated[
    list[str],
    typer.Option(help="JSON lines, Parquet, a folder of them, a store, or an XQuAD-R folder; may be repeated."),
]
IndexFolder = Annotated[str, typer.Option("--index", help="Folder of the index.")]
Checkpoint = Annotated[
    str | None, typer.Option(help="Encoder to use in place of the index's own copy; it must be of the index's space.")
]
Url = Annotated[str, typer.Option(help="Address of the service.")]


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
    help="Build, verify and extend an index. Without a word: build.",
)


def add_commands(app: typer.Typer) -> None:
    app.add_typer(index_app, name="index")
    for command in (serve, search, swap, rollback):
        app.command()(command)


@index_app.command()
def build(
    checkpoint: Annotated[str, typer.Option(help="Folder or hub name of the encoder.")],
    passages: Passages,
    out: Annotated[str, typer.Option(help="Folder to write the index to.")],
    config: Config = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Encode passages and write a sharded index. A build that was stopped goes on with the same command."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    _check_passages(passages)
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.cluster import ray_session
    from hybrid_ir.encoders import quiet_libraries

    begun = time.perf_counter()
    with ray_session(verbose), _stages() as progress, _index_folder(out) as folder:
        from hybrid_ir.index import build_index

        if not verbose:
            quiet_libraries()  # after Ray Data, which sets its own log levels
        manifest = build_index(
            checkpoint,
            passages,
            folder,
            experiment.index,
            seed=experiment.seed,
            pooling=experiment.encoder.pooling,
            prefixes=None if config is None else (experiment.encoder.query_prefix, experiment.encoder.passage_prefix),
            progress=progress,
        )
    console().print(f"index written to {out} in {time.perf_counter() - begun:.0f} s (space {manifest.space['id']})")
    _print_index(manifest, out)


@index_app.command()
def verify(index: IndexFolder, config: Config = None, overrides: Overrides = None, verbose: Verbose = False) -> None:
    """Check files, checksums, counts, the encoder and recall."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.encoders import quiet_libraries
    from hybrid_ir.index import verify_index
    from hybrid_ir.storage import fetch

    if not verbose:
        quiet_libraries()
    manifest = verify_index(fetch(index), experiment.index, seed=experiment.seed)
    console().print(f"{index} is whole (version {manifest.index_version}, space {manifest.space['id']})")
    _print_index(manifest, index)


@index_app.command()
def add(
    index: IndexFolder, passages: Passages, config: Config = None, overrides: Overrides = None, verbose: Verbose = False
) -> None:
    """Add new passages as one more shard."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.cluster import ray_session
    from hybrid_ir.encoders import quiet_libraries

    with ray_session(verbose), _stages() as progress, _index_folder(index) as folder:
        from hybrid_ir.index import add_passages

        if not verbose:
            quiet_libraries()
        manifest = add_passages(folder, passages, experiment.index, seed=experiment.seed, progress=progress)
    console().print(f"{manifest.shards[-1].rows:,} passages added to {index} as shard {manifest.shards[-1].name}")
    _print_index(manifest, index)


def _check_passages(passages: list[str]) -> None:
    """Refuse in a second, before Ray is started, what is not there."""
    from hybrid_ir.storage import is_uri
    from hybrid_ir.types import InputError

    for path in passages:
        if not is_uri(path) and not Path(path).exists():
            raise InputError(
                f"no passages at {path}; give .jsonl, .jsonl.gz or .parquet files, a store, or an XQuAD-R folder"
            )


@contextmanager
def _index_folder(index: str) -> Iterator[str]:
    """Where a build writes. Its tasks share the folder, so one that a URI stands for is on the only node."""
    from hybrid_ir.cluster import live_nodes
    from hybrid_ir.storage import is_uri, written
    from hybrid_ir.types import InputError

    nodes = live_nodes()
    if is_uri(index) and nodes > 1:
        raise InputError(
            f"a build on {nodes} nodes needs a folder that all of them see, not {index}; build on such a folder and copy it, "
            "or start Ray on one node"
        )
    with written(index) as folder:
        yield str(folder)


def serve(
    index: IndexFolder,
    checkpoint: Checkpoint = None,
    query: Annotated[
        list[str] | None, typer.Option(help="Search for this once the service is up; may be repeated.")
    ] = None,
    check_port: Annotated[bool, typer.Option("--check-port", help="Only say whether the port can be used.")] = False,
    config: Config = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Serve an index and its encoder over HTTP until Ctrl-C. Without a terminal and with --query: stop after the searches."""
    from hybrid_ir.config import load_experiment

    settings = load_experiment(config, overrides or ()).serve
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.serving import SearchClient, refuse_used_port, running, wait_for_stop

    refuse_used_port(settings.host, settings.port)
    if check_port:
        return

    out = console()
    begun = time.perf_counter()
    with running(index, settings, checkpoint=checkpoint, verbose=verbose) as address:
        out.print(
            f"serving {index} at {address}/ (API: {address}/docs) after {time.perf_counter() - begun:.0f} s; Ctrl-C stops it"
        )
        if query:
            from hybrid_ir.serving import api_keys

            with SearchClient(address, api_key=next(iter(api_keys(settings)), None)) as client:
                for text in query:
                    _print_hits(text, client.search(text, k=3))
        if not query or sys.stdin.isatty():
            wait_for_stop()
    out.print("stopped")


def search(
    query: Annotated[str, typer.Argument(help="What to search for.")],
    k: Annotated[int, typer.Option("-k", help="Hits.")] = 10,
    languages: Annotated[str | None, typer.Option(help="Comma-separated; all by default.")] = None,
    url: Url = "http://127.0.0.1:8000",
    strict: Annotated[bool, typer.Option(help="Fail when a shard is missing, in place of a partial answer.")] = False,
) -> None:
    """Search a running service. An API key is read from HYBRID_IR_API_KEY."""
    from hybrid_ir.serving import SearchClient
    from hybrid_ir.types import InputError

    wanted = [x.strip() for x in languages.split(",") if x.strip()] if languages else None
    try:
        with SearchClient(url) as client:
            found = client.search(query, k=k, languages=wanted, policy="strict" if strict else "best_effort")
    except ConnectionError as error:
        raise InputError(str(error)) from error
    _print_hits(query, found)


def swap(index: IndexFolder, checkpoint: Checkpoint = None, config: Config = None, overrides: Overrides = None) -> None:
    """Have the running service serve another index and its encoder, without a failed request."""
    from hybrid_ir.config import load_experiment

    settings = load_experiment(config, overrides or ()).serve
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.serving import swap as swap_release

    begun = time.perf_counter()
    state = swap_release(index, settings, checkpoint=checkpoint)
    console().print(
        f"serving {index} after {time.perf_counter() - begun:.1f} s; {state['previous']['index']} is kept: hybrid-ir rollback"
    )


def rollback() -> None:
    """Have the running service serve the index before the last swap again, at once."""
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.serving import roll_back

    state = roll_back()
    console().print(
        f"serving {state['active']['index']} again; {state['previous']['index']} is kept: hybrid-ir rollback"
    )


def _print_hits(query: str, response: dict[str, Any]) -> None:
    from rich.text import Text

    from hybrid_ir.cli.terminal import console

    out = console()
    timings, coverage = response["timings_ms"], response["coverage"]
    out.print(Text(f"{query}", style="bold"), Text(f"  {timings['total']:.1f} ms", style="dim"))
    for hit in response["results"][0]["hits"]:
        out.print(
            Text(f"{hit['position']:>3}  {hit['score']:.3f}  {hit['language']}  {hit['text']}"),
            Text(hit["doc_id"], style="dim"),
        )
    if not coverage["complete"]:
        missing = ", ".join(coverage["languages_missing"])
        out.print(
            f"incomplete: {coverage['shards']} of {coverage['shards_total']} shards answered; passages are missing in {missing}"
        )


def _print_index(manifest: Any, index: str) -> None:
    from rich.table import Table

    from hybrid_ir.cli.terminal import console

    table = Table(box=None, pad_edge=False)
    table.add_column("language")
    for name in ("passages", "recall@10", "filtered"):
        table.add_column(name, justify="right")
    for language, count in manifest.languages.items():
        recall = [manifest.recall[kind][language] for kind in ("unfiltered", "filtered")]
        table.add_row(language, f"{count:,}", *(f"{value:.3f}" for value in recall))
    sizes = " + ".join(f"{shard.rows:,}" for shard in manifest.shards)
    nprobe = f", {manifest.nprobe} lists searched" if manifest.nprobe else ""
    out = console()
    out.print(table)
    out.print(f"{manifest.rows:,} passages in {len(manifest.shards)} shards ({sizes}), codec {manifest.codec}{nprobe}")
    rejected = sum(manifest.rejected.values())
    if rejected:
        out.print(f"{rejected:,} records were rejected; each is in {index}/rejected.jsonl with its reason")


def _stages() -> Any:
    from hybrid_ir.cli.progress import counter

    return counter("")
