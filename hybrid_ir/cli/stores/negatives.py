"""The command `mine`. In: a store, an encoder, perhaps a corpus and a reranker. Out: a store with hard negatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from hybrid_ir.cli.index import check_passages
from hybrid_ir.cli.options import Config, Overrides, Verbose
from hybrid_ir.types import InputError


def mine(
    out: Annotated[str, typer.Option(help="Folder to write the store with negatives to; it must not exist.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Encoder that ranks: a folder, a run folder, or a hub name.")
    ] = None,
    bm25: Annotated[bool, typer.Option("--bm25", help="BM25 ranks in place of an encoder.")] = False,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="Passages to mine beside the store's, as `index` takes them; may be repeated."),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(help="Key of the corpus's metadata: passages with one value of it are translations."),
    ] = None,
    languages: Annotated[
        str,
        typer.Option(help="Which questions rank the passages of a language: same, other (all but that), or any."),
    ] = "same",
    below: Annotated[
        float | None,
        typer.Option(
            help="A negative scores less than this share of what the answer scores; 0.95 by default, with --bm25 no "
            "bound.",
            show_default=False,
        ),
    ] = None,
    margin: Annotated[float, typer.Option(help="And this much less than the answer, in cosine.")] = 0.0,
    ranks: Annotated[
        str, typer.Option(help="Ranks to take it from, FIRST-LAST, not counting known answers; 11-100 skips ten.")
    ] = "1-100",
    negatives: Annotated[
        int, typer.Option(help="Most negatives of a group in a language; batch.hard_negatives trains on several.")
    ] = 1,
    reranker: Annotated[
        str | None, typer.Option(help="Cross-encoder that refuses what it takes for answers: a folder or a hub name.")
    ] = None,
    reranker_below: Annotated[
        float | None,
        typer.Option(help="A negative scores less than this share of the answer by the reranker; 0.95 by default."),
    ] = None,
    reranker_margin: Annotated[
        float | None, typer.Option(help="And this much less, of scores between 0 and 1; 0 by default.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Also for groups that have negatives.")] = False,
    on_ray: Annotated[
        bool, typer.Option("--ray", help="As a Ray Data job on index.actors actors; else in this process.")
    ] = False,
    config: Config = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Find hard negatives for the questions of a store, and write a store that has them. The old one stays."""
    from hybrid_ir.config import load_experiment
    from hybrid_ir.data import open_store, refuse_existing
    from hybrid_ir.mining import CorpusFiles, RerankerRule, Rules, parse_ranks

    experiment = load_experiment(config, overrides or ())
    if bm25 == (checkpoint is not None):
        raise InputError("mine takes one that ranks: give --checkpoint NAME or --bm25")
    first, last = parse_ranks(ranks)
    rules = Rules(languages, 0.95 if below is None and not bm25 else below, margin, first, last, negatives)
    asked = {"below": reranker_below, "margin": reranker_margin}
    rule = RerankerRule(**{name: value for name, value in asked.items() if value is not None})
    if reranker is None and rule != RerankerRule():
        raise InputError("--reranker-below and --reranker-margin are of a reranker; name one with --reranker")
    if group_by is not None and not corpus:
        raise InputError(f"--group-by {group_by} is of a corpus; name one with --corpus")
    refuse_existing(out)
    check_passages(corpus or [])
    store = open_store(experiment.store)
    from hybrid_ir.batches import check_tasks
    from hybrid_ir.cli.progress import adding, counter
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.encoders import TextReader, best_device, load_reranker, quiet_libraries, resolve_precision
    from hybrid_ir.evaluation import encoder_of, load_measured, name_encoders
    from hybrid_ir.mining import LoadedWhereItRuns, Reranking, mine_negatives

    if not verbose:
        quiet_libraries()
    device = best_device()
    if on_ray:
        device = "cuda" if experiment.index.gpus_per_actor else "cpu"
    here = "cpu" if on_ray else device
    encode: Any = None
    made: dict[str, Any] = {"by": "bm25"}
    # Loaded here on Ray too: what is no encoder or no reranker is said before anything is started.
    scores: Any = None if reranker is None else load_reranker(reranker, device=here).scores
    with counter("mining:") as count:
        if checkpoint is not None:
            (name,) = name_encoders([checkpoint]).values()
            model = load_measured(name, experiment, here)
            check_tasks(experiment.batch.tasks, store, TextReader.of(model))
            encode = encoder_of(model, experiment, adding(count, "texts encoded"))
            made = {"encoder": checkpoint, "precision": resolve_precision(experiment.evaluate.precision, device)}
            if on_ray:
                encode = LoadedWhereItRuns(partial(_load_encoder, _seen_by_all(name), experiment, device))
        if reranker is not None:
            scores = _counted(scores, adding(count, "pairs reranked"))
            if on_ray:
                scores = LoadedWhereItRuns(partial(_load_scores, _seen_by_all(reranker), device))
        workers: Any = {"workers": partial(_actors, out, experiment.index, verbose)} if on_ray else {}
        manifest = mine_negatives(
            store,
            out,
            encode,
            rules,
            corpus=CorpusFiles(corpus, group_by) if corpus else None,
            reranking=None if scores is None else Reranking(scores, rule, {"name": reranker}),
            replace=replace,
            made=made,
            tasks=experiment.batch.tasks,
            device=device,
            progress=count,
            **workers,
        )
    mined = manifest["mined"]
    groups, say = mined["groups"], partial(console().print, highlight=False)
    say(
        f"store written to {out}: {groups['mined']:,} groups have mined negatives, {groups['kept']:,} kept theirs, "
        f"{groups['without']:,} have none in some language, and only loss.negatives=in_batch trains on those"
    )
    if corpus:
        say(_corpus_line(mined["corpus"], out), markup=False)
    if reranker is not None:
        asked = mined["reranker"]
        say(f"the reranker scored {asked['pairs']:,} pairs and refused {asked['refused']:,} passages")
    console().print(_outcomes_table(mined["outcomes"]))


def _corpus_line(corpus: dict[str, Any], out: str) -> str:
    rejected = sum(corpus["rejected"].values())
    parts = [f"{sum(corpus['passages'].values()):,} passages of the corpus were ranked too"]
    parts += [f"{n:,} are {reason}, and were not" for reason, n in corpus["left_out"].items()]
    if rejected:
        parts.append(f"{rejected:,} records were rejected (rejected_of_corpus.jsonl in {out} has each)")
    return f"{'; '.join(parts)}. {corpus['negatives']:,} negatives are of the corpus"


@contextmanager
def _actors(out: str, settings: Any, verbose: bool) -> Iterator[Any]:
    """A Ray, and what runs a stage on its actors. They share a folder beside the new store."""
    from hybrid_ir.cluster import live_nodes, ray_session
    from hybrid_ir.encoders import quiet_libraries
    from hybrid_ir.storage import is_uri

    with ray_session(verbose) as resources:
        from hybrid_ir.mining import run_on_actors  # with it comes Ray, which reads the environment that is set now

        if is_uri(out) and (nodes := live_nodes()) > 1:
            raise InputError(
                f"mining on {nodes} nodes needs a folder that all of them see, not {out}; write to such a folder and "
                "copy it, or start Ray on one node"
            )
        for kind, each in (("CPU", settings.cpus_per_actor), ("GPU", settings.gpus_per_actor)):
            if each * settings.actors > resources.get(kind, 0):
                raise InputError(
                    f"index.actors={settings.actors} need {each * settings.actors:g} {kind}s, and the cluster has "
                    f"{resources.get(kind, 0):g}; lower index.actors or index.{kind.lower()}s_per_actor"
                )
        if not verbose:
            quiet_libraries()  # with Ray Data come log levels of its own
        yield partial(run_on_actors, settings)


def _seen_by_all(name: str) -> str:
    """A folder by its whole path: actors stand in another one."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _load_encoder(name: str, experiment: Any, device: str) -> Callable[..., Any]:
    from hybrid_ir.evaluation import encoder_of, load_measured

    return encoder_of(load_measured(name, experiment, device), experiment)


def _load_scores(name: str, device: str) -> Callable[..., Any]:
    from hybrid_ir.encoders import load_reranker

    return load_reranker(name, device=device).scores


def _counted(scores: Callable[..., Any], add: Callable[[int], None]) -> Callable[..., Any]:
    def counted(pairs: Any) -> Any:
        found = scores(pairs)
        add(len(pairs))
        return found

    return counted


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
