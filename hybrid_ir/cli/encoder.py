"""Commands about an encoder alone: `encoder trim`. In: words of the command line. Out: an encoder folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybrid_ir.cli.options import Verbose

encoder_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make another encoder of an encoder.")


@encoder_app.callback()
def group() -> None:
    """Without this Typer would take a single command for the whole group."""


@encoder_app.command()
def trim(
    checkpoint: Annotated[str, typer.Option(help="Folder or hub name of the encoder.")],
    texts: Annotated[
        list[str], typer.Option(help="A store, or passages as `index` takes them; may be repeated.")
    ],
    out: Annotated[str, typer.Option(help="Folder to write the smaller encoder to; it must not exist.")],
    verbose: Verbose = False,
) -> None:
    """Cut an encoder's vocabulary to what some texts use, and all single characters. Their vectors stay the same."""
    from hybrid_ir.types import InputError

    if Path(out).exists():
        raise InputError(f"{out} exists; choose another --out")
    from hybrid_ir.cli.progress import counter
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.encoders import load_encoder, quiet_libraries, save_trimmed, trim_vocabulary
    from hybrid_ir.index import passages_at, texts_of

    for path in texts:
        passages_at(path)
    if not verbose:
        quiet_libraries()
    model = load_encoder(checkpoint)
    with counter("reading texts") as count:
        read = 0

        def counted():
            nonlocal read
            for path in texts:
                for text in texts_of(path):
                    read += 1
                    if not read % 1000:
                        count("texts", read)
                    yield text

        trimmed = trim_vocabulary(model, counted())
    save_trimmed(model, trimmed, checkpoint, out)
    console().print(
        f"encoder written to {out}: {trimmed.kept:,} of {trimmed.of:,} pieces, {trimmed.parameters / 1e6:.1f} of "
        f"{trimmed.parameters_before / 1e6:.1f} million parameters",
        highlight=False,
    )
