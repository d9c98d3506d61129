"""Commands on an encoder's folder: `encoder export`, `encoder push`.

In: words of the command line. Out: a folder, and what was measured of it as a table.
"""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from hybrid_ir.cli.options import Verbose

encoder_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Take an encoder elsewhere: export it, publish it."
)


@encoder_app.command()
def export(
    checkpoint: Annotated[str, typer.Option(help="Folder or hub name of the encoder.")],
    out: Annotated[str, typer.Option(help="Folder to write the export to; it must not exist.")],
    path: Annotated[str, typer.Option(help="A store, or the collection's folder: what the loss is measured on.")],
    collection: Annotated[str, typer.Option(help="store (its test split), xquad-r or mlqa-r.")] = "store",
    split: Annotated[str | None, typer.Option(help="Of a store: test or validation.")] = None,
    languages: Annotated[
        str | None, typer.Option(help="Comma-separated; all that the collection has by default.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Weights in 8 bits: a quarter of the size.")] = False,
    verbose: Verbose = False,
) -> None:
    """Write an encoder as ONNX, and measure what it loses in each language. Needs the extra `export`."""
    from hybrid_ir.cli.progress import counter
    from hybrid_ir.cli.terminal import console, export_tables
    from hybrid_ir.encoders import check_onnx, describe_onnx, export_onnx, load_encoder, load_onnx, quiet_libraries
    from hybrid_ir.evaluation import compare_export, load_test
    from hybrid_ir.storage import fetch, replace_folder, write_json, written
    from hybrid_ir.types import Collection, InputError

    check_onnx()
    if not verbose:
        quiet_libraries()
    wanted = [x.strip() for x in languages.split(",") if x.strip()] if languages else None
    test = load_test(collection, path if collection == "store" else fetch(path), split=split, languages=wanted)
    if not isinstance(test, Collection):
        raise InputError(f"the loss of an export is measured on store, xquad-r or mlqa-r, got {collection}")
    with written(out) as folder:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{out} exists already; choose another --out")
        original = load_encoder(checkpoint)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by one that was killed
        try:
            export_onnx(original, partial, int8=int8)
            with counter("encoding", 2 * (len(test.queries) + len(test.candidates))) as count:
                done = 0

                def progress(texts: int) -> None:
                    nonlocal done
                    done += texts
                    count("texts", done)

                measured = compare_export(original, load_onnx(partial), test, progress)
            measured = {"checkpoint": checkpoint, **describe_onnx(partial), **measured}
            write_json(partial / "export.json", measured)
            replace_folder(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    console().print(f"export written to {out} (what it costs: {out}/export.json)")
    for table in export_tables(measured):
        console().print(table)


@encoder_app.command()
def push(
    checkpoint: Annotated[str, typer.Option(help="Folder of the checkpoint, with its model card.")],
    to: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Repository of the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to write to; main by default.")] = None,
    verbose: Verbose = False,
) -> None:
    """Publish a checkpoint on the Hugging Face Hub: its files and its card, and nothing else."""
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.encoders import files_to_push, push_encoder, quiet_libraries
    from hybrid_ir.storage import fetch

    if not verbose:
        quiet_libraries()
    folder = fetch(checkpoint)
    url = push_encoder(folder, to, private=private, revision=revision)
    console().print(f"{len(files_to_push(folder))} files of {checkpoint} are in {to}: {url}")
