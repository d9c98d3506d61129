"""The command line. In: words. Out: what the stages of the same names do; an exit code.

Each command prints where it wrote, then one table. Imports stand inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import errno
import os
import sys

import typer

from hybrid_ir.cli import capacity, comparison, encoder, evaluation, index, serving, sweeps, training
from hybrid_ir.cli.indexes import changes
from hybrid_ir.cli.stores import negatives
from hybrid_ir.types import InputError

NO_SPACE = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
"""In the message of whoever found the disk full: Python, Arrow, safetensors, or a worker's traceback."""


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train and evaluate multilingual retrieval encoders with hybrid batches. Start with: make quickstart",
)
for command in (training.prepare, negatives.mine, training.teach, training.train):
    app.command()(command)
for command in (evaluation.evaluate, comparison.compare):
    app.command()(command)
for command in (changes.add, changes.replace, changes.delete, changes.compact, changes.prune):
    index.index_app.command()(command)
app.add_typer(index.index_app, name="index")
app.command()(encoder.encode)
app.add_typer(encoder.encoder_app, name="encoder")
for command in (serving.serve, serving.search, serving.swap, serving.rollback, sweeps.tune, sweeps.study):
    app.command()(command)
app.command("plan-capacity")(capacity.plan_capacity)


def main() -> None:
    """Entry point. A user's mistake is one message and exit 2, a full disk one and exit 1; Ctrl-C is exit 130."""
    # A log file shows what is said when it is said.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        app(standalone_mode=True)
    except InputError as error:
        from hybrid_ir.cli.terminal import printable

        print(printable(f"error: {error}"), file=sys.stderr)  # a message may quote what stands in a file
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
