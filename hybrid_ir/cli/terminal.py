"""What a person sees. In: measures by run or by language. Out: one console, tables whose headers are measure names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from hybrid_ir.measure_names import BIAS, MEASURES, best_of, digits
from hybrid_ir.reports import pair_matrix


def console() -> Console:
    """Standard output; plain and unwrapped when it is not a terminal."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=160)


def counted(number: int, noun: str) -> str:
    """A number of things: "1 shard", "12,000 shards". The plural of the noun has an s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """The text without what a terminal obeys: escapes of a passage could clear the screen or write a false line."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", lambda c: " " if c[0].isspace() else "\ufffd", text)


def measures_table(title: str, rows: Mapping[str, Mapping[str, Any]], measures: Sequence[str] = MEASURES) -> Table:
    """A row a run; columns are measures that can be pasted back into a config. The best of each column is bold."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", style="bold")
    for measure in measures:
        table.add_column(measure, justify="right")
    best = {}
    for measure in measures:
        values = [row[measure] for row in rows.values() if row.get(measure) is not None]
        if len(values) > 1:
            best[measure] = best_of(measure, values)
    for name, row in rows.items():
        cells = []
        for measure in measures:
            value = row.get(measure)
            text = "-" if value is None else f"{value:.{digits(measure)}f}"
            cells.append(f"[bold green]{text}[/]" if value is not None and value == best.get(measure) else text)
        table.add_row(name, *cells)
    return table


def collection_table(title: str, summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """The measures of a collection, with those of language bias where the evaluation has them."""
    rows = {name: {**summary, **summary.get("bias", {})} for name, summary in summaries.items()}
    return measures_table(title, rows, (*MEASURES, *BIAS))


def export_tables(measured: Mapping[str, Any]) -> list[Table]:
    """What an export costs by language and in all, and what it gives: size and speed."""
    loss = Table(title=measured["collection"], title_justify="left", title_style="bold", box=None, pad_edge=False)
    names = list(next(iter(measured["per_language"].values())))[:-1]
    loss.add_column("", style="bold")
    for name in names:
        loss.add_column(name, justify="right")
        loss.add_column("export", justify="right")
    loss.add_column("cosine", justify="right")

    def add(table: Table, title: str, pairs: Sequence[Mapping[str, Any]], *more: str) -> None:
        cells = [f"{value:.3f}" if value is not None else "-" for pair in pairs for value in pair.values()]
        table.add_row(title, *cells, *more)

    for language, row in measured["per_language"].items():
        add(loss, language, [row[name] for name in names], f"{row['cosine']:.4f}")
    add(loss, "mean", list(measured["averages"].values()), f"{measured['cosine']['mean']:.4f}")
    gain = Table(box=None, pad_edge=False)
    for name in ("", "original", "export"):
        gain.add_column(name, justify="right" if name else "left")
    speed = measured["texts_per_s"]
    gain.add_row("weights, MB", *(f"{measured[name] / 1e6:.1f}" for name in ("original_bytes", "bytes")))
    gain.add_row(f"texts/s, {measured['threads']} threads", *(f"{speed[name]:.0f}" for name in ("original", "export")))
    return [loss, gain]


def task_table(title: str, summary: Mapping[str, Any]) -> Table:
    """What the measures of a task are: a row a language, the mean, its interval, the mean over all queries where there
    are several languages, and chance's if known."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", style="bold")
    for measure in summary["measures"]:
        table.add_column(measure, justify="right")
    for language, row in summary["per_language"].items():
        table.add_row(language, *(f"{value:.3f}" for value in row.values()))
    table.add_row("mean", *(f"[bold]{value:.3f}[/]" for value in summary["measures"].values()))
    intervals = summary["intervals"].values()
    if all(low is not None for low, _ in intervals):
        table.add_row("95% interval", *(f"{low:.3f} to {high:.3f}" for low, high in intervals))
    if len(summary["per_language"]) > 1:
        table.add_row("all queries", *(f"{value:.3f}" for value in summary["over_queries"].values()))
    if chance := summary["chance"]:
        table.add_row("chance", *(f"{chance[m]:.3f}" if m in chance else "-" for m in summary["measures"]))
    return table


def pairs_table(pairs: Sequence[Mapping[str, Any]], measure: str) -> Table:
    """A measure by the language of the query (rows) and of the passages that are ranked (columns)."""
    table = Table(box=None, pad_edge=False)
    matrix = pair_matrix(pairs, measure)
    table.add_column("", style="bold")
    for language in next(iter(matrix.values())):
        table.add_column(language, justify="right")
    for language, row in matrix.items():
        table.add_row(language, *("-" if value is None else f"{value:.3f}" for value in row.values()))
    return table


def cost_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each encoder costs: a row an encoder; a figure that it has not (BM25 has no vectors) is a dash."""
    table = Table(title="cost", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", style="bold")
    for name in ("parameters", "dimension", "MB", "texts/s"):
        table.add_column(name, justify="right")
    for name, cost in rows.items():
        figures = (cost["parameters"], cost["dimension"], cost["megabytes"], cost["texts_per_s"])
        table.add_row(name, *("-" if n is None else f"{n:,.0f}" for n in figures))
    return table


def paired_table(comparisons: Sequence[Any]) -> Table:
    """`significance.Comparison`s, all against one: difference, its 95 % interval, p-value, and what that says."""
    title = f"against {comparisons[0].second}, {comparisons[0].questions} questions (p-values after Holm)"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("", "measure", "difference", "95% interval", "p", "is"):
        table.add_column(name, justify="left" if name in ("", "measure", "is") else "right")
    for c in comparisons:
        shown = f"+.{digits(c.measure)}f"
        interval = f"{c.low:{shown}} to {c.high:{shown}}"
        table.add_row(c.first, c.measure, f"{c.difference:{shown}}", interval, f"{c.p:.4f}", c.verdict)
    return table
