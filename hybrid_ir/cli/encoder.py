"""Commands about an encoder alone: `encode`, and `encoder trim`, `shorten`, `correct`, `export` and `push`.

In: words of the command line. Out: a folder, of an encoder or of vectors, and what was measured of it as a table.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import typer

from hybrid_ir.cli.index import Passages, check_checkpoint, check_passages, encoding_job, print_left_out
from hybrid_ir.cli.options import Config, IndexKeys, Overrides, Verbose, check_read, listed

encoder_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Make another encoder of one, export it, publish it."
)


class Role(StrEnum):
    """What texts are encoded as."""

    document = "document"
    query = "query"


class Form(StrEnum):
    """Files that vectors are written to."""

    parquet = "parquet"
    npy = "npy"


def encode(
    checkpoint: Annotated[str, typer.Option(help="Folder or hub name of the encoder.")],
    passages: Passages,
    out: Annotated[str, typer.Option(help="Folder to write the vectors to.")],
    form: Annotated[
        Form, typer.Option("--format", help="parquet: ids and vectors in one table; npy: a matrix, and ids beside it.")
    ] = Form.parquet,
    role: Annotated[Role, typer.Option(help="Whose prefix stands before each text.")] = Role.document,
    config: Config = None,
    overrides: IndexKeys = None,
    verbose: Verbose = False,
) -> None:
    """Write the vectors of texts. A command that was stopped goes on when it is typed again."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    check_read(overrides, "encode", "index", "encoder")
    check_passages(passages)
    check_checkpoint(checkpoint)
    from hybrid_ir.cli.terminal import console, counted

    begun = time.perf_counter()
    with encoding_job(out, "the vectors", verbose) as (folder, progress):
        from hybrid_ir.index import encode_passages

        manifest = encode_passages(
            checkpoint,
            passages,
            folder,
            experiment.index,
            role=role.value,
            form=form.value,
            pooling=experiment.encoder.pooling,
            prefixes=(experiment.encoder.query_prefix, experiment.encoder.passage_prefix),
            progress=progress,
        )
    console().print(
        f"{counted(manifest.rows, 'vector')} of {manifest.dimension} numbers written to {out} in "
        f"{time.perf_counter() - begun:.0f} s ({manifest.role}, space {manifest.space['id']})"
    )
    print_left_out(manifest, f"{out}/rejected.jsonl")


@encoder_app.command()
def trim(
    checkpoint: Annotated[str, typer.Option(help="Folder or hub name of the encoder.")],
    texts: Annotated[list[str], typer.Option(help="A store, or passages as `index` takes them; may be repeated.")],
    out: Annotated[str, typer.Option(help="Folder to write the smaller encoder to; it must not exist.")],
    verbose: Verbose = False,
) -> None:
    """Cut an encoder's vocabulary to what some texts use, and all single characters. Their vectors stay the same."""
    from hybrid_ir.data import refuse_existing

    refuse_existing(out)
    from hybrid_ir.cli.progress import adding, counter
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.encoders import load_encoder, quiet_libraries, trim_vocabulary, write_encoder
    from hybrid_ir.index import passages_at, texts_of

    for path in texts:
        passages_at(path)
    if not verbose:
        quiet_libraries()
    model = load_encoder(checkpoint)
    with counter("reading texts") as count:
        add = adding(count)

        def counted() -> Iterator[str]:
            for path in texts:
                for number, text in enumerate(texts_of(path), 1):
                    if not number % 1000:
                        add(1000)
                    yield text

        trimmed = trim_vocabulary(model, counted())
    write_encoder(
        model,
        out,
        f"`{checkpoint}` with a vocabulary of {trimmed.kept:,} of its {trimmed.of:,} pieces: those that a set of texts "
        "uses, and all single characters. Such texts have the vectors that they had. A word of other pieces is read as "
        "more and smaller ones, and its vector is another.",
    )
    console().print(
        f"encoder written to {out}: {trimmed.kept:,} of {trimmed.of:,} pieces, {trimmed.parameters / 1e6:.1f} of "
        f"{trimmed.parameters_before / 1e6:.1f} million parameters",
        highlight=False,
    )


@encoder_app.command()
def shorten(
    checkpoint: Annotated[str, typer.Option(help="Folder or hub name of the encoder.")],
    dimension: Annotated[int, typer.Option(help="Values of a vector that stay: its first.")],
    out: Annotated[str, typer.Option(help="Folder to write the encoder to; it must not exist.")],
    verbose: Verbose = False,
) -> None:
    """Have an encoder give shorter vectors. One trained with loss.dimensions loses little by it."""
    from hybrid_ir.data import refuse_existing

    refuse_existing(out)
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.encoders import keep_dimensions, load_encoder, quiet_libraries, write_encoder

    if not verbose:
        quiet_libraries()
    model = load_encoder(checkpoint)
    before = model.get_embedding_dimension()
    keep_dimensions(model, dimension)
    write_encoder(
        model,
        out,
        f"`{checkpoint}` with the first {dimension} of the {before} values of a vector, brought to unit length. "
        "Vectors of the two encoders must not be compared.",
    )
    console().print(f"encoder written to {out}: vectors of {dimension} values, of {before}", highlight=False)


@encoder_app.command()
def correct(
    checkpoint: Annotated[str, typer.Option(help="Folder or hub name of the encoder.")],
    passages: Annotated[
        list[str], typer.Option(help="Passages with their languages, as `index` takes them; may be repeated.")
    ],
    out: Annotated[str, typer.Option(help="Folder to write the corrected encoder to; it must not exist.")],
    collection: Annotated[str, typer.Option(help="What to measure it on: store, xquad-r or mlqa-r.")] = "store",
    path: Annotated[str | None, typer.Option(help="The collection's folder. Without it nothing is measured.")] = None,
    languages: Annotated[str | None, typer.Option(help="Comma-separated; all of the passages' by default.")] = None,
    max_loss: Annotated[float, typer.Option(help="AP that a language may lose among its own passages.")] = 0.02,
    config: Config = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Take the languages' means off an encoder's vectors, without training. With --path: measured, and gated."""
    from hybrid_ir.config import load_experiment
    from hybrid_ir.data import refuse_existing
    from hybrid_ir.types import Collection, InputError

    experiment = load_experiment(config, overrides or ())
    refuse_existing(out)
    from hybrid_ir.cli.progress import adding, counter
    from hybrid_ir.cli.terminal import console, measures_table
    from hybrid_ir.encoders import apply_correction, learn_correction, load_encoder, quiet_libraries, write_encoder
    from hybrid_ir.evaluation import count_texts, load_test, measure_correction, refuse_loss
    from hybrid_ir.index import passages_at, sample_by_language
    from hybrid_ir.storage import fetch

    for each in passages:
        passages_at(each)
    test = None if path is None else load_test(collection, path if collection == "store" else fetch(path))
    if test is not None and not isinstance(test, Collection):
        raise InputError(f"a correction is measured on store, xquad-r or mlqa-r, not on {collection}")
    if not verbose:
        quiet_libraries()
    wanted = listed(languages) if languages else None
    model = load_encoder(checkpoint)
    correction = learn_correction(model, sample_by_language(passages, wanted))
    terminal = console()
    if test is not None:
        with counter("encoding", count_texts(test)) as count:
            before, after = measure_correction(model, correction, test, experiment, adding(count))
        terminal.print(measures_table(test.name, {"as it is": before, "corrected": after}))
        refuse_loss(before, after, max_loss)
    apply_correction(model, correction)
    write_encoder(
        model,
        out,
        f"`{checkpoint}` with what the means of its vectors differ in, from language to language "
        f"({', '.join(correction.languages)}), taken off all vectors: {correction.rank} of {len(correction.mean_D)} "
        "dimensions, by a linear layer before the last normalising (after LIR, arXiv 2109.04727, and SHIFT, arXiv "
        "2606.18801). Vectors of the two encoders must not be compared.",
    )
    terminal.print(f"encoder written to {out}: {correction.rank} dimensions of {', '.join(correction.languages)} off")


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
    from hybrid_ir.cli.progress import adding, counter
    from hybrid_ir.cli.terminal import console, export_tables
    from hybrid_ir.encoders import check_onnx, describe_onnx, export_onnx, load_encoder, load_onnx, quiet_libraries
    from hybrid_ir.evaluation import compare_export, load_test
    from hybrid_ir.storage import fetch, replace_folder, write_json, written
    from hybrid_ir.types import Collection, InputError

    check_onnx()
    if not verbose:
        quiet_libraries()
    wanted = listed(languages) if languages else None
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
                measured = compare_export(original, load_onnx(partial), test, adding(count))
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
