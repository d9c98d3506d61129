"""Reports a person reads: one self-contained HTML page for a run or for several runs, and a small picture.

In: summaries from `metrics.evaluate_collection` or `task_result.summarize`, and training logs. Out: pages that load
nothing, in light, dark and print. The same input gives the same bytes: no dates, no random ids. Words and layout are
in report.html.j2 and task_report.html.j2.
"""

from __future__ import annotations

import io
import itertools
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_ir.config import leaf_texts
from hybrid_ir.measure_names import MEASURES
from hybrid_ir.reports.figures import (
    DASH,
    INK,
    LINE,
    MUTED,
    PAPER,
    SERIES,
    drawing,
    format_measure,
    legend,
    quiet,
    render,
    svg,
)
from hybrid_ir.types import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Summary = Mapping[str, Any]
Log = Sequence[Mapping[str, Any]]
Matrix = Mapping[str, Mapping[str, float | None]]
Line = tuple[list[float], list[float]]  # steps, values

HEADLINE = ("AP_mono", "AP_cross", "AP_multi", "rank_distance")
LANGUAGE_MEASURES = ("AP_mono", "AP_cross_as_query", "AP_cross_as_passage", "AP_multi", "rank_distance")


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
    _write_page(path, title, subtitle, runs, comparisons or {}, settings or {})


def write_comparison(
    path: Path | str,
    *,
    title: str,
    subtitle: str = "",
    runs: Mapping[str, Mapping[str, Any]],
    comparisons: Mapping[str, Summary] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Several runs on one collection: name -> {"summary": ..., "log": rows or None}, in the order to show them."""
    _write_page(path, title, subtitle, runs, comparisons or {}, settings or {})


def write_task_report(path: Path | str, *, title: str, subtitle: str = "", summary: Summary) -> None:
    """One run on a public task, from what `task_result.summarize` returns: measures and bars by language, and counts."""
    per_language, chance = summary["per_language"], summary["chance"]
    with drawing():
        bars = {
            measure: svg(
                _draw_bars(
                    {measure: {language: row[measure] for language, row in per_language.items()}},
                    "{:.2f}",
                    guide=chance.get(measure),
                ),
                f"bars-{i}",
            )
            for i, measure in enumerate(summary["measures"])
        }
    html = render(
        "task_report.html.j2",
        title=title,
        subtitle=subtitle,
        measures=summary["measures"],
        intervals={"intervals": summary["intervals"]},
        chance=chance,
        per_language=per_language,
        bars=bars,
        counts=summary["counts"],
    )
    Path(path).write_text(html, encoding="utf-8", newline="\n")


def heat_map_png(path: Path | str, matrices: Mapping[str, Matrix], *, dpi: int = 110) -> None:
    """The matrices side by side on one colour scale, on white: a picture for a README."""
    from PIL import Image

    buffer = io.BytesIO()
    with drawing():
        figure = _draw_heat_maps(matrices, ink="#1b1f24", paper="#ffffff", empty="#e6e8eb")
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", bbox_inches="tight", pad_inches=0.1)
    # A palette is a third of the bytes. Maximum coverage keeps the colour of a lone cell, which median cut bends.
    picture = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(path, "PNG", optimize=True)


def _write_page(
    path: Path | str,
    title: str,
    subtitle: str,
    runs: Mapping[str, Mapping[str, Any]],
    others: Mapping[str, Summary],
    settings: Mapping[str, Any],
) -> None:
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
        key: {name: _column(log, key) for name, log in logs.items()} for key in ("loss", *HEADLINE, "learning_rate")
    }
    curves = {key: lines for key, lines in curves.items() if any(steps for steps, _ in lines.values())}
    with drawing():
        heat_map = svg(_draw_heat_maps(matrices, ink=INK, paper=PAPER, empty=LINE), "heat-map")
        bars = svg(_draw_bars(distances), "rank-distance")
        training = svg(_draw_curves(curves), "training") if curves else ""

    html = render(
        "report.html.j2",
        title=title,
        subtitle=subtitle,
        measures=MEASURES,
        language_measures=LANGUAGE_MEASURES,
        rows=summaries | dict(others),
        best=_best_of_columns([*summaries.values(), *others.values()]),
        sentences=[_sentence(a, summaries[a], b, summaries[b]) for a, b in itertools.combinations(summaries, 2)],
        summaries=summaries,
        counts=next(iter(summaries.values()))["counts"],  # runs that are compared share their collection
        heat_map=heat_map,
        bars=bars,
        training=training,
        speeds={name: _training_figures(log) for name, log in logs.items()},
        settings=leaf_texts(settings),
    )
    Path(path).write_text(html, encoding="utf-8", newline="\n")


def _best_of_columns(rows: Sequence[Summary]) -> dict[str, str]:
    """The best value of each measure as printed, so that what looks equal is marked equally. One row has no best."""
    best = {}
    for measure in MEASURES:
        values = [row[measure] for row in rows if row.get(measure) is not None]
        if len(values) > 1:
            best[measure] = format_measure((min if measure == "rank_distance" else max)(values), measure)
    return best


def _sentence(first: str, a: Summary, second: str, b: Summary) -> str:
    """Which of two runs did better on each headline measure, and whether the intervals overlap."""
    parts: dict[str, list[str]] = {first: [], second: [], "": []}
    for measure in HEADLINE:
        if a.get(measure) is None or b.get(measure) is None:
            continue
        lead = (a[measure] - b[measure]) * (-1 if measure == "rank_distance" else 1)
        winner = first if lead > 0 else second if lead < 0 else ""
        better, worse = (b[measure], a[measure]) if winner == second else (a[measure], b[measure])
        more = next((n for n in range(4) if format_measure(better, measure, n) != format_measure(worse, measure, n)), 0)
        values = f"{format_measure(better, measure, more)} against {format_measure(worse, measure, more)}"
        parts[winner].append(f"{measure} ({values}, {_overlap(a, b, measure)})")
    clauses = [f"{name} is better on {', '.join(parts[name])}" for name in (first, second) if parts[name]]
    clauses += [f"they are equal on {', '.join(parts[''])}"] if parts[""] else []
    return f"{first} against {second}: {'; '.join(clauses) or 'no measure in common'}."


def _overlap(a: Summary, b: Summary, measure: str) -> str:
    (low_a, high_a), (low_b, high_b) = (run.get("intervals", {}).get(measure) or (None, None) for run in (a, b))
    if low_a is None or low_b is None:
        return "no intervals"
    return "intervals overlap" if low_a <= high_b and low_b <= high_a else "intervals apart"


def _training_figures(log: Log) -> dict[str, str]:
    (steps, losses), (_, rates), (_, waits) = (_column(log, key) for key in ("loss", "pairs_per_s", "input_wait"))
    return {
        "last step": f"{steps[-1]:,.0f}" if steps else DASH,
        "last loss": f"{_smooth(losses)[-1]:.3f}" if losses else DASH,
        "median pairs/s": f"{statistics.median(rates):,.0f}" if rates else DASH,
        "mean input_wait": f"{statistics.fmean(waits):.3f}" if waits else DASH,
    }


def _draw_heat_maps(matrices: Mapping[str, Matrix], *, ink: str, paper: str, empty: str) -> Figure:
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    values = {
        name: np.array([list(row.values()) for row in matrix.values()], float)  # None becomes NaN
        for name, matrix in matrices.items()
    }
    known = [ap for value in values.values() for ap in value.ravel() if not np.isnan(ap)] or [0.0]
    low = math.floor(min(known) * 20) / 20
    high = max(low + 0.05, math.ceil(max(known) * 20) / 20)
    colours = matplotlib.colormaps["viridis"].resampled(48)  # few enough to stay vectors in the colour bar
    scale = ScalarMappable(Normalize(low, high), colours)
    columns = len(values) if len(values) <= 3 else 2 if len(values) == 4 else 3
    side, rows = {1: 5.6, 2: 4.6, 3: 3.9}[columns], math.ceil(len(values) / columns)
    figure = Figure(figsize=(side * columns + 0.5, (side + 0.15) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(values) :]:
        axes.set_axis_off()
    for axes, (name, value) in zip(grid, values.items(), strict=False):
        queries, passages = list(matrices[name]), list(next(iter(matrices[name].values())))
        axes.pcolormesh(value, cmap=colours, norm=scale.norm, edgecolors=paper, linewidth=0.8)
        for (i, j), ap in np.ndenumerate(value):
            text = DASH if np.isnan(ap) else f"{ap:.2f}".removeprefix("0")
            shade = np.dot([0.2126, 0.7152, 0.0722], np.array(scale.to_rgba(ap)[:3]) ** 2.2)
            readable = ink if np.isnan(ap) else "#101010" if shade > 0.18 else "#ffffff"
            size = min(8.0, 76.0 / len(passages))
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center_baseline", color=readable, fontsize=size)
            if queries[i] == passages[j]:
                axes.add_patch(Rectangle((j + 0.04, i + 0.04), 0.92, 0.92, fill=False, edgecolor=ink, linewidth=1.3))
        axes.set(facecolor=empty, xlim=(0, len(passages)), ylim=(len(queries), 0), aspect="equal")
        axes.set_xticks(np.arange(len(passages)) + 0.5, passages, color=ink)
        axes.set_yticks(np.arange(len(queries)) + 0.5, queries, color=ink)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("passage language", color=ink, fontsize=8)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("query language", color=ink, fontsize=8)
        if name:
            axes.set_title(textwrap.fill(name, int(side * 9)), color=ink, fontweight="bold", pad=10)
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(scale, ax=list(grid), fraction=0.03, pad=0.015, shrink=0.8, aspect=28)
    bar.outline.set_visible(False)
    bar.solids.set_edgecolor("face")  # pyright: ignore[reportOptionalMemberAccess]
    bar.ax.tick_params(length=0, labelcolor=ink)
    bar.ax.set_title("AP", color=ink, fontsize=8)
    return figure


def _draw_bars(
    series: Mapping[str, Mapping[str, float | None]], form: str = "{:.0f}", guide: float | None = None
) -> Figure:
    """Bars by language, a colour for each name of `series`; `guide` is a level to draw, such as what chance scores."""
    from matplotlib.figure import Figure

    languages = list(dict.fromkeys(language for values in series.values() for language in values))
    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(series)
    size = min(8.0, 9.6 * 72 * width / len(languages) / 2.2)  # a number of three digits fits over its bar
    for i, (name, values) in enumerate(series.items()):
        at = [j + (i - (len(series) - 1) / 2) * width for j, key in enumerate(languages) if values.get(key) is not None]
        heights = [value for key in languages if (value := values.get(key)) is not None]
        bars = axes.bar(at, heights, width * 0.9, color=SERIES[i % len(SERIES)], label=name)
        axes.bar_label(bars, fmt=form, padding=2, color=INK, fontsize=size)
    if guide is not None:
        axes.axhline(guide, color=MUTED, linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(languages)), languages)
    axes.set_xlim(-0.6, len(languages) - 0.4)
    axes.margins(y=0.1)
    quiet(axes)
    legend(figure, axes, len(series))
    return figure


def _draw_curves(panels: Mapping[str, Mapping[str, Line]]) -> Figure:
    from matplotlib.figure import Figure

    columns, n_rows = min(3, len(panels)), math.ceil(len(panels) / 3)
    figure = Figure(figsize=(9.6, 2.5 * n_rows + 0.2), layout="constrained")
    grid = figure.subplots(n_rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (key, lines) in zip(grid, panels.items(), strict=False):
        for i, (name, (steps, values)) in enumerate(lines.items()):
            colour = SERIES[i % len(SERIES)]
            if key == "loss" and steps:
                thin = 1 + len(steps) // 1000  # a long run's every step would be megabytes of path
                axes.plot(steps[::thin], values[::thin], color=colour, linewidth=0.5, alpha=0.3)
                steps, values = steps[::thin], _smooth(values)[::thin]
            marker = "o" if key in HEADLINE and len(steps) <= 30 else ""
            axes.plot(steps, values, color=colour, linewidth=1.3, marker=marker, markersize=2.6, label=name)
        axes.set_title(key, color=INK, loc="left")
        if key == "learning_rate":
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_ylim(bottom=0)
        quiet(axes)
    legend(figure, grid[0], len(panels[next(iter(panels))]))
    return figure


def _column(log: Log, key: str) -> Line:
    rows = [(row["step"], row[key]) for row in log if row.get(key) is not None and math.isfinite(row[key])]
    return [step for step, _ in rows], [value for _, value in rows]


def _smooth(values: Sequence[float]) -> list[float]:
    """Mean over a window of a twentieth of the values around each, so that the curve does not lag behind a fall."""
    window = np.ones(1 + len(values) // 40 * 2)
    return (np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")).tolist()
