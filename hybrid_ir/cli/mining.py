"""The command that finds hard negatives: `mine`. In: a store, an encoder. Out: a store that has them, and counts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hybrid_ir.cli.options import Config, Overrides, Verbose


def mine(
    checkpoint: Annotated[str, typer.Option(help="Encoder that ranks: a folder, a run folder, or a hub name.")],
    out: Annotated[str, typer.Option(help="Folder to write the store with negatives to; it must not exist.")],
    languages: Annotated[
        str,
        typer.Option(help="Which questions rank the passages of a language: same, other (all but that), or any."),
    ] = "same",
    below: Annotated[
        float, typer.Option(help="A negative scores less than this share of what the answer scores.")
    ] = 0.95,
    margin: Annotated[float, typer.Option(help="And this much less than the answer, in cosine.")] = 0.0,
    ranks: Annotated[
        str, typer.Option(help="Ranks to take it from, FIRST-LAST, not counting known answers; 11-100 skips ten.")
    ] = "1-100",
    replace: Annotated[bool, typer.Option("--replace", help="Also for groups that have negatives.")] = False,
    config: Config = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Find a hard negative for each question of a store, and write a store that has them. The old one stays."""
    from hybrid_ir.config import load_experiment
    from hybrid_ir.data import open_store, refuse_existing
    from hybrid_ir.mining import Rules, parse_ranks

    experiment = load_experiment(config, overrides or ())
    first, last = parse_ranks(ranks)
    rules = Rules(languages, below, margin, first, last)
    refuse_existing(out)
    store = open_store(experiment.store)
    from hybrid_ir.cli.progress import adding, counter
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.encoders import quiet_libraries, resolve_precision
    from hybrid_ir.evaluation import encoder_of, load_measured, name_encoders
    from hybrid_ir.mining import mine_negatives

    if not verbose:
        quiet_libraries()
    (name,) = name_encoders([checkpoint]).values()
    model = load_measured(name, experiment)
    precision = resolve_precision(experiment.evaluate.precision, model.device.type)
    with counter("mining:") as count:
        manifest = mine_negatives(
            store,
            out,
            encoder_of(model, experiment, adding(count, "texts encoded")),
            rules,
            replace=replace,
            made={"encoder": checkpoint, "precision": precision},
            device=model.device.type,
            progress=count,
        )
    groups = manifest["mined"]["groups"]
    console().print(
        f"store written to {out}: {groups['mined']:,} groups have mined negatives, {groups['kept']:,} kept theirs, "
        f"{groups['without']:,} have none in some language, and only loss.negatives=in_batch trains on those"
    )
    console().print(_outcomes_table(manifest["mined"]["outcomes"]))


def _outcomes_table(outcomes: dict[str, dict[str, int]]) -> Any:
    """What became of the groups of each language; a column for each thing that happened."""
    from rich.table import Table

    from hybrid_ir.mining import OUTCOMES

    happened = [name for name in OUTCOMES if any(counts[name] for counts in outcomes.values())]
    table = Table(box=None, pad_edge=False)
    for name in ("", "groups", *(OUTCOMES[name] for name in happened)):
        table.add_column(name, justify="right" if name else "left")
    for language, counts in outcomes.items():
        table.add_row(language, f"{sum(counts.values()):,}", *(f"{counts[name]:,}" for name in happened))
    return table
