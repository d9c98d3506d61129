"""The command line. In: words. Out: what the stages of the same names do; an exit code.

Each command prints where it wrote, then one table. Imports stand inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hybrid_ir.cli import capacity, serving, sweeps, training
from hybrid_ir.cli.options import Config, Overrides, Verbose
from hybrid_ir.types import InputError

NO_SPACE = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
"""In the message of whoever found the disk full: Python, Arrow, safetensors, or a worker's traceback."""


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
    from hybrid_ir.evaluation import TASKS, evaluate as run_evaluation, evaluate_task, load_collection, load_task
    from hybrid_ir.storage import fetch, written

    if not verbose:
        quiet_libraries()
    if collection != "store":
        path, corpus = fetch(path), None if corpus is None else fetch(corpus)
    wanted = [x.strip() for x in languages.split(",") if x.strip()] if languages else None
    task, tests = None, None
    if collection in TASKS:
        task = load_task(collection, path, split=split, languages=wanted, corpus=corpus)
    else:
        tests = load_collection(collection, path, split=split or "test", languages=wanted)
    model = load_encoder(checkpoint, pooling=experiment.encoder.pooling, device=best_device())
    if config is not None and not any(model.prompts.values()):
        # The model declares no prefixes of its own, and the user gave a config that does.
        model.prompts |= {"query": experiment.encoder.query_prefix, "document": experiment.encoder.passage_prefix}
    total = None if tests is None else len(tests.queries) + len(tests.candidates)  # of a corpus only the end tells
    with counter("encoding", total) as count, written(out) as folder:
        done = 0

        def progress(texts: int) -> None:
            nonlocal done
            done += texts
            count("texts", done)

        if task is not None:
            summary = evaluate_task(model, checkpoint, collection, task, folder, experiment, progress)
        else:
            assert tests is not None
            summary = run_evaluation(model, checkpoint, tests, folder, experiment, progress)
    console().print(f"measures written to {out} (report: {out}/report.html)")
    if task is not None:
        console().print(task_table(collection, summary))
        if left_out := [f"{n:,} {name}" for name, n in summary["counts"]["left_out"].items() if n]:
            console().print(f"left out or missing: {', '.join(left_out)}")
    else:
        console().print(measures_table(summary["collection"], {Path(checkpoint).parent.name or checkpoint: summary}))


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train and evaluate multilingual retrieval encoders with hybrid batches. Start with: make quickstart",
)
for command in (training.prepare, training.train, evaluate, training.compare):
    app.command()(command)
serving.add_commands(app)
for command in (sweeps.tune, sweeps.study):
    app.command()(command)
app.command("plan-capacity")(capacity.plan_capacity)


def main() -> None:
    """Entry point. A user's mistake is one message and exit 2, a full disk one and exit 1; Ctrl-C is exit 130."""
    # A log file shows what is said when it is said.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
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


if __name__ == "__main__":
    main()
