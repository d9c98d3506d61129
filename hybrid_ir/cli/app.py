"""The command line: the same words as the stages. Each command prints where it wrote, then one table.

Imports stand inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hybrid_ir.cli.options import Config, Verbose, WaitForNodes

NO_SPACE = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
"""In the message of whoever found the disk full: Python, Arrow, safetensors, or a worker's traceback."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train and evaluate multilingual retrieval encoders with hybrid batches. Start with: make quickstart",
)
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example train.steps=100 out=runs/a")
]


@app.command()
def prepare(config: Config = None, overrides: Overrides = None, verbose: Verbose = False) -> None:
    """Read the sources and write the store: shuffled, partitioned by language, split by document."""
    from hybrid_ir.cli.progress import counter
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.config import load_experiment
    from hybrid_ir.data import prepare_experiment

    experiment = load_experiment(config, overrides or ())
    with counter("reading") as count:
        manifest = prepare_experiment(experiment, count)
    out = console()
    out.print(f"store written to {experiment.store}")
    out.print(_store_table(manifest))
    rejected = sum(sum(s["rejected"].values()) for s in manifest["sources"].values())
    if rejected:
        out.print(f"{rejected:,} records were rejected; each is in {experiment.store}/rejected/ with its reason")


@app.command()
def train(
    config: Config = None, overrides: Overrides = None, wait_for_nodes: WaitForNodes = 0, verbose: Verbose = False
) -> None:
    """Fine-tune the encoder on the store. Ctrl-C saves; the same command resumes."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    _check_store(experiment)

    from hybrid_ir.cli.progress import TrainingProgress
    from hybrid_ir.cli.terminal import console, measures_table
    from hybrid_ir.cluster import cluster_for, ray_session
    from hybrid_ir.encoders import quiet_libraries
    from hybrid_ir.training import train as run_training

    if not verbose:
        quiet_libraries()
    out = console()
    with ray_session(verbose) as resources:
        resources = cluster_for(experiment, resources, wait_for_nodes, out.print)
        with TrainingProgress(experiment.train.steps) as progress:
            progress.begin("train")
            metrics = run_training(experiment, resources, progress.report)
    out.print(f"run written to {experiment.out} (checkpoint: {experiment.out}/checkpoint, step {metrics['best_step']})")
    out.print(
        f"{metrics['steps']} steps, {metrics['pairs_per_s']:.0f} pairs/s, "
        f"input wait {metrics['input_wait']:.1%}, loss {metrics['loss']:.3f}"
    )
    if metrics["validation"]:
        out.print(
            measures_table(
                "validation", {Path(experiment.out).name: metrics["validation"]}, tuple(metrics["validation"])
            )
        )


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Option(help="Folder or hub name of the encoder.")],
    path: Annotated[str, typer.Option(help="The collection's folder; of miracl and xcopa, hub:OWNER/NAME too.")],
    out: Annotated[str, typer.Option(help="Folder to write metrics.json, per_query.parquet and report.html to.")],
    collection: Annotated[
        str, typer.Option(help="store, xquad-r, mlqa-r, miracl, tatoeba, mewsli-x or xcopa.")
    ] = "store",
    split: Annotated[
        str | None, typer.Option(help="store: test, validation; miracl: dev; mewsli-x: test, dev; xcopa: test, val.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Of miracl: folder or hub:OWNER/NAME of its corpora, if they are not in PATH.")
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="Comma-separated; all that the collection has by default.")
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Rank every candidate of a test collection for every query, and measure."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())

    from hybrid_ir.cli.progress import counter
    from hybrid_ir.cli.terminal import console, measures_table, task_table
    from hybrid_ir.encoders import best_device, load_encoder, quiet_libraries
    from hybrid_ir.evaluation import count_texts, evaluate as run_evaluation, load_test
    from hybrid_ir.storage import fetch, written

    if not verbose:
        quiet_libraries()
    if collection != "store":
        path, corpus = fetch(path), None if corpus is None else fetch(corpus)
    wanted = [x.strip() for x in languages.split(",") if x.strip()] if languages else None
    test = load_test(collection, path, split=split, languages=wanted, corpus=corpus)
    model = load_encoder(checkpoint, pooling=experiment.encoder.pooling, device=best_device())
    if config is not None and not any(model.prompts.values()):
        # The model declares no prefixes of its own, and the user gave a config that does.
        model.prompts |= {"query": experiment.encoder.query_prefix, "document": experiment.encoder.passage_prefix}
    with counter("encoding", count_texts(test)) as count, written(out) as folder:
        done = 0

        def progress(texts: int) -> None:
            nonlocal done
            done += texts
            count("texts", done)

        summary = run_evaluation(model, checkpoint, test, folder, experiment, progress)
    console().print(f"measures written to {out} (report: {out}/report.html)")
    if "measures" in summary:  # a task's own
        console().print(task_table(collection, summary))
        if left_out := [f"{n:,} {name}" for name, n in summary["counts"]["left_out"].items() if n]:
            console().print(f"left out or missing: {', '.join(left_out)}")
    else:
        console().print(measures_table(summary["collection"], {Path(checkpoint).parent.name or checkpoint: summary}))


@app.command()
def compare(
    mixes: Annotated[
        str,
        typer.Option(help="Comma-separated: monolingual, cross_lingual, multilingual, hybrid, or a baseline (README)."),
    ],
    config: Config = None,
    overrides: Overrides = None,
    wait_for_nodes: WaitForNodes = 0,
    verbose: Verbose = False,
) -> None:
    """Train and evaluate the same experiment under several mixes; print the table of all."""
    from hybrid_ir.config import load_experiment, recipe_experiments
    from hybrid_ir.data import open_store
    from hybrid_ir.storage import is_uri
    from hybrid_ir.types import InputError

    experiment = load_experiment(config, overrides or ())
    if is_uri(experiment.out):
        raise InputError(f"a comparison reads what it wrote, so it needs a folder, not {experiment.out}")
    experiments = recipe_experiments(experiment, [m.strip() for m in mixes.split(",") if m.strip()])
    for each in experiments.values():
        _check_store(each)
    tests = open_store(experiment.store).collection("test")

    from hybrid_ir.cli.progress import TrainingProgress
    from hybrid_ir.cli.terminal import console, measures_table
    from hybrid_ir.cluster import cluster_for, ray_session
    from hybrid_ir.encoders import quiet_libraries
    from hybrid_ir.tuning import compare as run_comparison

    if not verbose:
        quiet_libraries()
    begun = time.perf_counter()
    out = console()
    with ray_session(verbose) as resources:
        resources = cluster_for(experiment, resources, wait_for_nodes, out.print)
        with TrainingProgress(experiment.train.steps) as progress:
            summaries = run_comparison(
                experiments,
                tests,
                Path(experiment.out),
                resources=resources,
                started=lambda name, _: progress.begin(name),
                report=progress.report,
            )
    out.print(f"comparison written to {experiment.out} (report: {experiment.out}/report.html)")
    out.print(measures_table(f"{tests.name}, {experiment.train.steps} steps each", summaries))
    out.print(f"{time.perf_counter() - begun:.0f} s for {len(experiments)} trainings and their evaluation")


def main() -> None:
    """Entry point: a mistake of the user's is one clear message and exit 2; a full disk one and exit 1; Ctrl-C is exit 130."""
    from hybrid_ir.cli import capacity as cli_capacity, index as cli_index, serving as cli_serving, sweeps as cli_sweeps
    from hybrid_ir.types import InputError

    cli_index.add_commands(app)
    cli_serving.add_commands(app)
    cli_sweeps.add_commands(app)
    cli_capacity.add_commands(app)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a log file shows what is said when it is said
    try:
        app(standalone_mode=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as left:  # Typer turns the one into the other, and says nothing
        if isinstance(left, SystemExit) and left.code != 130:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if type(error).__name__ == "Interrupted":
            print(f"{error}\nresume with the same command", file=sys.stderr)
            sys.exit(130)
        full = [line.strip() for line in str(error).splitlines() if any(said in line for said in NO_SPACE)]
        if not full:
            raise
        print(f"error: the disk is full: {full[-1]}; free some space, then run the same command", file=sys.stderr)
        sys.exit(1)


def _check_store(experiment: Any) -> None:
    """Refuse in a second, before the libraries of training are loaded, what the store or the run folder rule out."""
    from hybrid_ir.batches import plan_for
    from hybrid_ir.data import open_store
    from hybrid_ir.training import is_complete

    store = open_store(experiment.store)
    plan_for(store, experiment)
    is_complete(experiment, store)


def _store_table(manifest: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("source", "groups", "train", "validation", "test", "rejected"):
        table.add_column(name, justify="left" if name == "source" else "right")
    for name, row in manifest["sources"].items():
        cells = [
            row["groups"],
            *(row.get(split, 0) for split in ("train", "validation", "test")),
            sum(row["rejected"].values()),
        ]
        table.add_row(name, *(f"{n:,}" for n in cells))
    table.caption = f"{len(manifest['languages'])} languages: {' '.join(manifest['languages'])}"
    table.caption_justify = "left"
    return table


if __name__ == "__main__":
    main()
