"""The command that says which is better: `compare`, of mixes that it trains or of encoders as they are.

In: words of the command line. Out: what `tuning` or `evaluation` writes, and tables.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from hybrid_ir.cli.options import Config, Overrides, Verbose, WaitForNodes, listed


def compare(
    mixes: Annotated[
        str | None,
        typer.Option(
            help="Train these. Comma-separated: monolingual, cross_lingual, multilingual, hybrid, or a baseline "
            "(docs/tune.md)."
        ),
    ] = None,
    encoders: Annotated[
        str | None,
        typer.Option(
            help="Measure these as they are. Comma-separated: hub names, folders, checkpoints, run folders; each is "
            "tested against the first."
        ),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(
            help="Of encoders: store, xquad-r, mlqa-r, beir, trec, judged, belebele, mldr, neuclir, mkqa or xpqa; else "
            "store."
        ),
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="Of encoders: the collection's folder; from belebele on, hub:OWNER/NAME too.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Of encoders: folder for theirs, and for comparison.html.")] = None,
    split: Annotated[str | None, typer.Option(help="Of encoders: the split, as evaluate has it.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Of encoders, of trec: the file of passages, from PATH.")] = None,
    topics: Annotated[str | None, typer.Option(help="Of encoders, of trec: the file of topics, from PATH.")] = None,
    qrels: Annotated[str | None, typer.Option(help="Of encoders, of trec: the file of judgements, from PATH.")] = None,
    language: Annotated[
        str | None, typer.Option(help="Of encoders, of beir, trec and judged: that of texts which do not say theirs.")
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="Of encoders: comma-separated; all that the collection has by default.")
    ] = None,
    bm25: Annotated[
        bool | None,
        typer.Option("--bm25/--no-bm25", help="Of encoders: BM25 beside them; yes if the extra bm25 is installed."),
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
    wait_for_nodes: WaitForNodes = 0,
    verbose: Verbose = False,
) -> None:
    """Train the same experiment under several mixes, or take several encoders as they are; test, and compare."""
    from hybrid_ir.types import InputError

    if (mixes is None) == (encoders is None):
        raise InputError("compare needs --mixes, which it trains, or --encoders, which it measures as they are: one")
    if encoders is not None:
        if path is None or out is None:
            raise InputError("--encoders needs --path, the folder of the test, and --out, where to write")
        test = {"split": split, "corpus": corpus, "topics": topics, "qrels": qrels, "language": language}
        wanted = (encoders, collection or "store", path, out, test, languages, bm25)
        return _compare_encoders(*wanted, config, overrides, verbose)
    of_encoders = {"collection": collection, "path": path, "out": out, "split": split, "languages": languages}
    of_encoders |= {"corpus": corpus, "topics": topics, "qrels": qrels, "language": language, "bm25": bm25}
    if given := [f"--{name}" for name, value in of_encoders.items() if value is not None]:
        raise InputError(
            f"{', '.join(given)} goes with --encoders; of --mixes the test is the store's, and the folder is out=FOLDER"
        )
    return _compare_mixes(mixes or "", config, overrides, wait_for_nodes, verbose)


def _compare_mixes(
    mixes: str, config: Path | None, overrides: list[str] | None, wait_for_nodes: int, verbose: bool
) -> None:
    from hybrid_ir.cli.training import check_store
    from hybrid_ir.config import load_experiment
    from hybrid_ir.data import open_store
    from hybrid_ir.storage import is_uri
    from hybrid_ir.tuning import list_recipes
    from hybrid_ir.types import InputError

    experiment = load_experiment(config, overrides or ())
    if is_uri(experiment.out):
        raise InputError(f"a comparison reads what it wrote, so it needs a folder, not {experiment.out}")
    trials = list_recipes(experiment, listed(mixes))
    for each in trials.values():
        check_store(each)
    tests = open_store(experiment.store).collection("test")

    from hybrid_ir.cli.progress import TrainingProgress
    from hybrid_ir.cli.terminal import console, measures_table
    from hybrid_ir.cluster import cluster_for, ray_session
    from hybrid_ir.encoders import quiet_libraries
    from hybrid_ir.tuning import publish_comparison, run_trial

    if not verbose:
        quiet_libraries()
    begun = time.perf_counter()
    terminal = console()
    with ray_session(verbose) as resources:
        resources = cluster_for(experiment, resources, wait_for_nodes, terminal.print)
        with TrainingProgress(experiment.train.steps) as progress:
            for name, trial in trials.items():
                progress.begin(name)
                run_trial(trial, resources, progress.report)
    summaries = publish_comparison(trials, tests.name, Path(experiment.out))
    terminal.print(f"comparison written to {experiment.out} (report: {experiment.out}/report.html)")
    terminal.print(measures_table(f"{tests.name}, {experiment.train.steps} steps each", summaries))
    terminal.print(f"{time.perf_counter() - begun:.0f} s for {len(trials)} trainings and their evaluation")


def _compare_encoders(
    encoders: str,
    collection: str,
    path: str,
    out: str,
    test_options: dict[str, str | None],
    languages: str | None,
    bm25: bool | None,
    config: Path | None,
    overrides: list[str] | None,
    verbose: bool,
) -> None:
    from hybrid_ir.config import load_experiment
    from hybrid_ir.storage import fetch, is_uri
    from hybrid_ir.types import Collection, InputError

    experiment = load_experiment(config, overrides or ())
    if is_uri(out):
        raise InputError(f"a comparison reads what it wrote, so it needs a folder, not {out}")

    from hybrid_ir.cli.progress import counter
    from hybrid_ir.cli.terminal import collection_table, console, cost_table, measures_table, paired_table
    from hybrid_ir.encoders import quiet_libraries
    from hybrid_ir.evaluation import (
        JUDGED_TASKS,
        LAREQA,
        TEST_SETS,
        compare_encoders,
        count_texts,
        has_bm25,
        load_test,
        name_encoders,
        require_bm25,
    )

    if not verbose:
        quiet_libraries()
    terminal = console()
    if collection not in ("store", *LAREQA):
        if bm25:
            raise InputError(f"BM25 is not ranked on {collection}; leave --bm25 out")
        bm25 = False
    if bm25:
        require_bm25()
    if bm25 is None and not has_bm25():
        terminal.print("without BM25 beside them: pip install 'hybrid-ir[bm25]' adds it")
    named = name_encoders(listed(encoders), has_bm25() if bm25 is None else bm25)
    if collection != "store":
        path = fetch(path)
    test = load_test(collection, path, languages=listed(languages) or None, **test_options)
    if not isinstance(test, Collection) and test.content is None:
        raise InputError(
            f"encoders are compared on {', '.join(('store', *LAREQA, *TEST_SETS, *JUDGED_TASKS))}, not on "
            f"{collection}; `evaluate` has it"
        )
    done = dict.fromkeys(named, 0)
    with counter("encoding", count_texts(test)) as count:

        def progress(label: str, texts: int) -> None:
            done[label] += texts
            count(label, done[label])

        summaries, comparisons = compare_encoders(named, test, Path(out), experiment, terminal.print, progress)
    terminal.print(f"comparison written to {out} (report: {out}/comparison.html)")
    for label, summary in summaries.items():
        if summary.get("collapsed"):
            terminal.print(f"warning: {label} is collapsed: it gives all candidates nearly the same vector")
    if isinstance(test, Collection):
        terminal.print(collection_table(test.name, summaries))
    else:
        rows = {label: summary["measures"] for label, summary in summaries.items()}
        terminal.print(measures_table(test.name, rows, list(next(iter(rows.values())))))
    terminal.print(cost_table({label: summary["cost"] for label, summary in summaries.items()}))
    if comparisons:
        terminal.print(paired_table(comparisons))
