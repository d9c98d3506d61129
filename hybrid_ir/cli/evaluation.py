"""The command that measures an encoder: `evaluate`.

In: words of the command line. Out: the files that `evaluation` writes, and their averages as a table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybrid_ir.cli.options import Config, Overrides, Verbose, listed


def evaluate(
    checkpoint: Annotated[str, typer.Option(help="Folder or hub name of the encoder.")],
    path: Annotated[
        str, typer.Option(help="The collection's folder; of miracl, xcopa and from belebele on, hub:OWNER/NAME too.")
    ],
    out: Annotated[str, typer.Option(help="Folder to write metrics.json, per_query.parquet and report.html to.")],
    collection: Annotated[
        str,
        typer.Option(
            help="store, xquad-r, mlqa-r; beir, trec, judged; miracl, tatoeba, mewsli-x, xcopa; belebele, mldr, "
            "neuclir, mkqa or xpqa."
        ),
    ] = "store",
    split: Annotated[
        str | None,
        typer.Option(
            help="store: test, validation; miracl: dev; mewsli-x, mldr: test, dev; xcopa: test, val; beir: test, as it "
            "has; neuclir, xpqa: test; mkqa: train."
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Of miracl: folder or hub:OWNER/NAME of its corpora, if they are not in PATH; of trec: the file of "
            "passages, .jsonl or .tsv."
        ),
    ] = None,
    topics: Annotated[str | None, typer.Option(help="Of trec: the file of topics, from PATH.")] = None,
    qrels: Annotated[str | None, typer.Option(help="Of trec: the file of judgements, from PATH.")] = None,
    language: Annotated[
        str | None, typer.Option(help="Of beir, trec and judged: that of texts which do not say theirs; else und.")
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

    from hybrid_ir.cli.progress import adding, counter
    from hybrid_ir.cli.terminal import collection_table, console, counted, pairs_table, task_table
    from hybrid_ir.encoders import quiet_libraries
    from hybrid_ir.evaluation import count_texts, evaluate as run_evaluation, load_measured, load_test
    from hybrid_ir.storage import fetch, written

    if not verbose:
        quiet_libraries()
    if collection != "store":
        path, corpus = fetch(path), None if corpus is None else fetch(corpus)
    wanted = listed(languages) if languages else None
    files = {"corpus": corpus, "topics": topics, "qrels": qrels}
    test = load_test(collection, path, split=split, languages=wanted, language=language, **files)
    model = load_measured(checkpoint, experiment)
    with counter("encoding", count_texts(test)) as count, written(out) as folder:
        summary = run_evaluation(model, checkpoint, test, folder, experiment, adding(count))
    console().print(f"measures written to {out} (report: {out}/report.html)")
    if summary.get("collapsed"):
        console().print("warning: the encoder is collapsed: it gives all candidates nearly the same vector")
    if "measures" in summary:  # a task's own
        console().print(task_table(collection, summary))
        if pairs := summary.get("pairs"):
            first = next(iter(summary["measures"]))
            console().print(f"{first} of queries in the row's language, of passages in the column's alone")
            console().print(pairs_table(pairs, first))
        if left_out := [f"{n:,} {name}" for name, n in summary["counts"]["left_out"].items() if n]:
            console().print(f"left out or missing: {', '.join(left_out)}")
        counts = summary["counts"]
        if pieces := counts.get("pieces"):
            long = counted(counts["passages in pieces"], "long passage")
            console().print(f"cut: {long}; {pieces:,} pieces are ranked")
        if cut := counts["cut"]:
            console().print(
                f"longer than the encoder reads: {counted(cut, 'passage')}, whose ends were not ranked; where these "
                "are of a test set of your own, index.pieces.tokens=256 ranks passages by their best pieces"
            )
    else:
        console().print(collection_table(summary["collection"], {Path(checkpoint).parent.name or checkpoint: summary}))
