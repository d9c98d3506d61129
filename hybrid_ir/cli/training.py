"""Commands that make an encoder: `prepare`, `teach`, `train`. `mine` is in `stores`.

In: sources, a store. Out: a store, a run folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hybrid_ir.cli.options import Config, Overrides, Verbose, WaitForNodes
from hybrid_ir.types import InputError


def prepare(config: Config = None, overrides: Overrides = None, verbose: Verbose = False) -> None:
    """Read the sources and write the store: shuffled, partitioned by language, split by document."""
    from hybrid_ir.cli.progress import counter
    from hybrid_ir.cli.terminal import console, counted
    from hybrid_ir.config import load_experiment
    from hybrid_ir.data import files_root, prepare_experiment

    experiment = load_experiment(config, overrides or ())
    with counter("reading") as count:
        manifest = prepare_experiment(experiment, count)
    out = console()
    out.print(f"store written to {experiment.store}")
    out.print(_store_table(manifest))
    rejected = sum(sum(s["rejected"].values()) for s in manifest["sources"].values())
    if rejected:
        folder = f"{files_root(experiment.store, manifest)}/rejected/"
        out.print(f"{counted(rejected, 'record')} rejected; each is in {folder} with its reason")
    if experiment.batch.sources is not None or experiment.batch.one_source:
        try:
            out.print(_shares_line(check_store(experiment)[1]), highlight=False)
        except InputError as error:
            out.print(f"a training with these settings would be refused: {error}", markup=False)


def teach(
    out: Annotated[str, typer.Option(help="Folder to write the store with the answers to; it must not exist.")],
    encoder: Annotated[
        str | None, typer.Option(help="Teacher that is an encoder: a folder, a run folder, or a hub name.")
    ] = None,
    reranker: Annotated[
        str | None, typer.Option(help="Teacher that is a cross-encoder: a folder or a hub name.")
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="Of a reranker: it reads all pairs of a group's languages, or the same; all by default."),
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Ask a teacher about the texts of a store, and write a store that has the answers. The old one stays."""
    from hybrid_ir.config import load_experiment
    from hybrid_ir.data import open_store, refuse_existing

    experiment = load_experiment(config, overrides or ())
    if (encoder is None) == (reranker is None):
        raise InputError("teach takes one teacher: give --encoder NAME or --reranker NAME")
    if encoder is not None and pairs is not None:
        raise InputError(f"--pairs {pairs} is of a reranker, and an encoder reads each text alone; leave it out")
    refuse_existing(out)
    store = open_store(experiment.store)
    from hybrid_ir.batches import check_tasks
    from hybrid_ir.cli.progress import adding, counter
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.encoders import TextReader, quiet_libraries, resolve_precision
    from hybrid_ir.evaluation import encoder_of, load_measured, name_encoders
    from hybrid_ir.teaching import teach_scores, teach_vectors

    if not verbose:
        quiet_libraries()
    with counter("teaching:") as count:
        if encoder is not None:
            (name,) = name_encoders([encoder]).values()
            model = load_measured(name, experiment)
            precision = resolve_precision(experiment.evaluate.precision, model.device.type)
            made = {"name": encoder, "precision": precision}
            tasks = experiment.batch.tasks
            check_tasks(tasks, store, TextReader.of(model))
            encode = encoder_of(model, experiment, adding(count, "texts encoded"))
            manifest = teach_vectors(store, out, encode, made=made, tasks=tasks, progress=count)
        else:
            from hybrid_ir.encoders import best_device, load_reranker

            assert reranker is not None
            scores = load_reranker(reranker, device=best_device()).scores
            manifest = teach_scores(store, out, scores, pairs=pairs or "all", made={"name": reranker}, progress=count)
    taught, groups = manifest["taught"], sum(partition["rows"] for partition in manifest["partitions"])
    said = f"vectors of {taught['dimension']} values" if encoder else f"scores of {taught['pairs']} pairs of languages"
    console().print(f"store written to {out}: {groups:,} groups with {said} by {taught['name']}", highlight=False)


def train(
    config: Config = None, overrides: Overrides = None, wait_for_nodes: WaitForNodes = 0, verbose: Verbose = False
) -> None:
    """Fine-tune the encoder on the store. Ctrl-C saves; the same command resumes."""
    from hybrid_ir.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    held_out, shares = check_store(experiment)

    from hybrid_ir.cli.progress import TrainingProgress
    from hybrid_ir.cli.terminal import console, measures_table
    from hybrid_ir.cluster import cluster_for, ray_session
    from hybrid_ir.encoders import quiet_libraries
    from hybrid_ir.training import train as run_training

    if not verbose:
        quiet_libraries()
    _check_encoder(experiment)
    out = console()
    most = experiment.train.validation_groups
    if most is not None and held_out > most:
        out.print(f"validation is on {most:,} of the {held_out:,} groups held out for it (train.validation_groups)")
    if shares:
        out.print(_shares_line(shares), highlight=False)
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
    share_cut = metrics.get("share_cut", {})  # a run of an older version has none
    if any(share_cut.values()):
        most = sorted(share_cut.items(), key=lambda each: -each[1])[:8]
        shown = ", ".join(f"{language} {share:.1%}" for language, share in most if share)
        out.print(f"texts longer than the encoder reads were cut, of each language: {shown}")
    if metrics["validation"]:
        out.print(
            measures_table(
                "validation", {Path(experiment.out).name: metrics["validation"]}, tuple(metrics["validation"])
            )
        )


def check_store(experiment: Any) -> tuple[int, list[tuple[str, float, float]]]:
    """Refuse in a second, before the libraries of training are loaded, what the store or the run folder rule out.

    Returns how many groups the store holds out for validation, and what `source_shares` says of the training.
    """
    from hybrid_ir.batches import plan_for, source_shares
    from hybrid_ir.data import open_store
    from hybrid_ir.training import is_complete

    store = open_store(experiment.store)
    plan = plan_for(store, experiment)
    is_complete(experiment, store)
    held_out = sum(source.get("validation", 0) for source in store.manifest["sources"].values())
    return held_out, source_shares(plan, experiment.train.steps)


def _check_encoder(experiment: Any) -> None:
    """Refuse what a training cannot begin with, before Ray is started. A run that is there may have its own copy."""
    from hybrid_ir.encoders import PRESETS, check_source
    from hybrid_ir.storage import read_file

    if experiment.encoder.name in PRESETS:
        return
    try:
        read_file(experiment.out, "manifest.json")
    except FileNotFoundError:
        check_source(experiment.encoder.name)


def _shares_line(shares: list[tuple[str, float, float]]) -> str:
    each = (f"{share:.1%} {name} (its groups come {times:.1f} times)" for name, share, times in shares)
    return f"rows to train on: {', '.join(each)}"


def _store_table(manifest: dict[str, Any]) -> Any:
    from rich.table import Table

    from hybrid_ir.cli.terminal import counted

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
    table.caption = f"{counted(len(manifest['languages']), 'language')}: {' '.join(manifest['languages'])}"
    table.caption_justify = "left"
    return table
