"""Report pages: one self-contained HTML page for a run or for several runs, or for a run on a public task.

In: summaries of evaluations and training logs. Out: pages that load nothing, in light, dark and print. Words and layout
are in report.html.j2, task_report.html.j2 and task_comparison.html.j2.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.config import leaf_texts
from hybrid_ir.measure_names import BIAS, HEADLINE, MEASURES, OF_LANGUAGE, best_of, digits, lower_is_better
from hybrid_ir.reports.charts import draw_bars, draw_curves, draw_heat_maps
from hybrid_ir.reports.drawing_kit import DASH, INK, LINE, PAPER, drawing, format_measure, render, svg
from hybrid_ir.reports.training_log import Log, curve_of, smooth
from hybrid_ir.types import InputError

Summary = Mapping[str, Any]


def write_report(
    path: Path | str,
    *,
    title: str,
    subtitle: str = "",
    summary: Summary,
    training_log: Log | None = None,
    comparisons: Mapping[str, Summary] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """One run. `comparisons` adds rows to the first table, such as published figures: name -> measures."""
    runs = {"this run": {"summary": summary, "log": training_log}}
    write_comparison(path, title=title, subtitle=subtitle, runs=runs, comparisons=comparisons, settings=settings)


def write_comparison(
    path: Path | str,
    *,
    title: str,
    subtitle: str = "",
    runs: Mapping[str, Mapping[str, Any]],
    comparisons: Mapping[str, Summary] | None = None,
    costs: Mapping[str, Mapping[str, Any]] | None = None,
    paired: Sequence[Mapping[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Several runs on one collection: name -> {"summary": ..., "log": rows or None}, in the order to show them.

    `costs` is a row a run: parameters, dimension, megabytes, texts_per_s. `paired` are paired tests of runs against
    one of them, rows of first, second, measure, values, difference, low, high, p, questions and verdict; where they are
    given they stand in place of sentences about intervals, which see less.
    """
    if not runs:
        raise InputError(f"no run to report in {path}; give at least one")
    summaries = {name: run["summary"] for name, run in runs.items()}
    logs = {name: run["log"] for name, run in runs.items() if run.get("log")}
    matrices = {name if len(runs) > 1 else "": summary["matrix"] for name, summary in summaries.items()}
    distances = {
        name: {language: row["rank_distance"] for language, row in summary["per_language"].items()}
        for name, summary in summaries.items()
    }
    curves = {
        key: {name: curve_of(log, key) for name, log in logs.items()} for key in ("loss", *HEADLINE, "learning_rate")
    }
    curves = {key: lines for key, lines in curves.items() if any(steps for steps, _ in lines.values())}
    with drawing():
        heat_map = svg(draw_heat_maps(matrices, ink=INK, paper=PAPER, empty=LINE), "heat-map")
        bars = svg(draw_bars(distances), "rank-distance")
        first = _first_languages(summaries)
        share = {"ink": INK, "paper": PAPER, "empty": LINE, "measure": "share"}
        first_map = svg(draw_heat_maps(first, **share), "first-ten") if first else ""
        training = svg(draw_curves(curves), "training") if curves else ""
    rows = {**summaries, **(comparisons or {})}
    html = render(
        "report.html.j2",
        title=title,
        subtitle=subtitle,
        measures=MEASURES,
        language_measures=OF_LANGUAGE,
        rows=rows,
        best=_best_of_columns(list(rows.values())),
        sentences=[_sentence(a, summaries[a], b, summaries[b]) for a, b in itertools.combinations(summaries, 2)]
        if not paired
        else [],
        costs=costs or {},
        paired=[_paired_row(row) for row in paired],
        against=paired[0] if paired else None,
        summaries=summaries,
        counts=next(iter(summaries.values()))["counts"],  # runs that are compared share their collection
        heat_map=heat_map,
        bars=bars,
        first_map=first_map,
        bias_measures=BIAS,
        own={name: _own_shares(summary["bias"]) for name, summary in summaries.items() if "bias" in summary},
        training=training,
        speeds={name: _training_figures(log) for name, log in logs.items()},
        settings=leaf_texts(settings or {}),
    )
    Path(path).write_text(html, encoding="utf-8", newline="\n")


def write_task_report(path: Path | str, *, title: str, subtitle: str = "", summary: Summary) -> None:
    """One run on a task: measures and bars by language, pairs of languages where it has them, and counts. The template
    knows the summary's keys."""
    bars, heat_map = {}, ""
    first = next(iter(summary["measures"]))
    with drawing():
        for i, measure in enumerate(summary["measures"]):
            values = {language: row[measure] for language, row in summary["per_language"].items()}
            bars[measure] = svg(draw_bars({measure: values}, "{:.2f}", summary["chance"].get(measure)), f"bars-{i}")
        if pairs := summary.get("pairs"):
            matrix = {"": pair_matrix(pairs, first)}
            heat_map = svg(draw_heat_maps(matrix, ink=INK, paper=PAPER, empty=LINE, measure=first), "heat-map")
    shown = {"bars": bars, "heat_map": heat_map, "first": first}
    html = render("task_report.html.j2", title=title, subtitle=subtitle, **shown, **summary)
    Path(path).write_text(html, encoding="utf-8", newline="\n")


def write_task_comparison(
    path: Path | str,
    *,
    title: str,
    subtitle: str = "",
    summaries: Mapping[str, Summary],
    costs: Mapping[str, Mapping[str, Any]],
    paired: Sequence[Mapping[str, Any]],
) -> None:
    """Several encoders on one task, by their names. `costs` and `paired` are those of `write_comparison`."""
    measures = list(next(iter(summaries.values()))["measures"])
    bars, heat_map = {}, ""
    with drawing():
        for i, measure in enumerate(measures):
            values = {
                name: {language: row[measure] for language, row in summary["per_language"].items()}
                for name, summary in summaries.items()
            }
            bars[measure] = svg(draw_bars(values, "{:.2f}"), f"bars-{i}")
        if all("pairs" in summary for summary in summaries.values()):
            matrices = {name: pair_matrix(summary["pairs"], measures[0]) for name, summary in summaries.items()}
            heat_map = svg(draw_heat_maps(matrices, ink=INK, paper=PAPER, empty=LINE, measure=measures[0]), "heat-map")
    html = render(
        "task_comparison.html.j2",
        title=title,
        subtitle=subtitle,
        measures=measures,
        summaries=summaries,
        costs=costs,
        paired=[_paired_row(row) for row in paired],
        against=paired[0] if paired else None,
        bars=bars,
        heat_map=heat_map,
    )
    Path(path).write_text(html, encoding="utf-8", newline="\n")


def pair_matrix(pairs: Sequence[Summary], measure: str) -> dict[str, dict[str, float | None]]:
    """The measure by query language and passage language; None where no query has anything relevant there."""
    values = {(pair["language"], pair["passage_language"]): pair[measure] for pair in pairs}
    rows, columns = (sorted({key[side] for key in values}) for side in (0, 1))
    return {row: {column: values.get((row, column)) for column in columns} for row in rows}


def _first_languages(summaries: Mapping[str, Summary]) -> dict[str, dict[str, Mapping[str, float]]]:
    """Of each run that has them, the languages of the first ten by query language; last row: those of the pool."""
    return {
        name if len(summaries) > 1 else "": {**summary["bias"]["first_10"], "pool": summary["bias"]["expected"]}
        for name, summary in summaries.items()
        if "bias" in summary
    }


def _own_shares(bias: Mapping[str, Any]) -> tuple[str, str]:
    """Means over languages: a language's share of the first ten of its own queries, and of the pool."""
    first = statistics.fmean(row[language] for language, row in bias["first_10"].items())
    return f"{first:.0%}", f"{statistics.fmean(bias['expected'].values()):.0%}"


def _best_of_columns(rows: Sequence[Summary]) -> dict[str, str]:
    """The best value of each measure as printed, so that what looks equal is marked equally. One row has no best."""
    best = {}
    for measure in MEASURES:
        values = [row[measure] for row in rows if row.get(measure) is not None]
        if len(values) > 1:
            best[measure] = format_measure(best_of(measure, values), measure)
    return best


def _sentence(first: str, a: Summary, second: str, b: Summary) -> str:
    """Which of two runs did better on each headline measure, and whether the intervals overlap."""
    parts: dict[str, list[str]] = {first: [], second: [], "": []}
    for measure in HEADLINE:
        if a.get(measure) is None or b.get(measure) is None:
            continue
        lead = (a[measure] - b[measure]) * (-1 if lower_is_better(measure) else 1)
        winner = first if lead > 0 else second if lead < 0 else ""
        better, worse = (b[measure], a[measure]) if winner == second else (a[measure], b[measure])
        more = next((n for n in range(4) if format_measure(better, measure, n) != format_measure(worse, measure, n)), 0)
        values = f"{format_measure(better, measure, more)} against {format_measure(worse, measure, more)}"
        parts[winner].append(f"{measure} ({values}, {_overlap(a, b, measure)})")
    clauses = [f"{name} is better on {', '.join(parts[name])}" for name in (first, second) if parts[name]]
    clauses += [f"they are equal on {', '.join(parts[''])}"] if parts[""] else []
    return f"{first} against {second}: {'; '.join(clauses) or 'no measure in common'}."


def _paired_row(row: Mapping[str, Any]) -> list[str]:
    """As the page prints it; a p-value below what it shows is said to be below."""
    shown = f"+.{digits(row['measure'])}f"
    interval = f"{row['low']:{shown}} to {row['high']:{shown}}"
    p = f"{row['p']:.3f}" if row["p"] >= 0.001 else "< .001"
    return [row["first"], row["measure"], f"{row['difference']:{shown}}", interval, p, row["verdict"]]


def _overlap(a: Summary, b: Summary, measure: str) -> str:
    (low_a, high_a), (low_b, high_b) = (run.get("intervals", {}).get(measure) or (None, None) for run in (a, b))
    if low_a is None or low_b is None:
        return "no intervals"
    return "intervals overlap" if low_a <= high_b and low_b <= high_a else "intervals apart"


def _training_figures(log: Log) -> dict[str, str]:
    (steps, losses), (_, rates), (_, waits) = (curve_of(log, key) for key in ("loss", "pairs_per_s", "input_wait"))
    return {
        "last step": f"{steps[-1]:,.0f}" if steps else DASH,
        "last loss": f"{smooth(losses)[-1]:.3f}" if losses else DASH,
        "median pairs/s": f"{statistics.median(rates):,.0f}" if rates else DASH,
        "mean input_wait": f"{statistics.fmean(waits):.3f}" if waits else DASH,
    }
