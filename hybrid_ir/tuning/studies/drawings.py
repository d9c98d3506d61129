"""The pictures of the studies' pages. In: numbers by point and by language, size or perturbation. Out: figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hybrid_ir.evaluation import PERTURBATIONS
from hybrid_ir.reports import INK, MUTED, SERIES, legend, quiet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_changes(changes: Mapping[str, Mapping[str, float]]) -> Figure:
    """Label -> language -> change of a measure: bars around zero."""
    figure, axes, _ = _draw_bars(changes)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    return figure


def draw_perturbed(found: Mapping[str, Mapping[str, float]]) -> Figure:
    """AP_multi of each point under each perturbation, with its number over its bar."""
    kinds = ("clean", *PERTURBATIONS)
    figure, axes, bars = _draw_bars(
        {label: {k: values[f"{k}/AP_multi"] for k in kinds} for label, values in found.items()}
    )
    for each in bars:
        axes.bar_label(each, fmt="%.3f", padding=2, fontsize=7, color=INK)
    return figure


def draw_costs(lines: Mapping[str, Sequence[tuple[float, float, float, str]]]) -> Figure:
    """Recipe -> (seconds of training, nDCG@10, R@100, encoder) of each point: a panel a measure, a line a recipe."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    for axes, (place, measure) in zip(figure.subplots(1, 2), ((1, "nDCG@10"), (2, "R@100")), strict=True):
        for i, (recipe, points) in enumerate(lines.items()):
            x, y = [point[0] for point in points], [point[place] for point in points]
            axes.plot(x, y, marker="o", color=SERIES[i], label=recipe, linewidth=1.3)
            for point in points:
                axes.annotate(
                    point[3].rpartition("/")[2], (point[0], point[place]), xytext=(5, 4), textcoords="offset points",
                    fontsize=7, color=INK,
                )  # fmt: skip
        axes.set_title(measure, loc="left", color=INK)
        axes.set_xlabel("training time (s)", color=MUTED)
        axes.margins(x=0.15, y=0.15)
        quiet(axes)
        axes.legend(frameon=False, labelcolor=INK)
    return figure


def _draw_bars(series: Mapping[str, Mapping[str, float]]) -> tuple[Figure, Any, list[Any]]:
    """A group of bars a key, in it a bar a label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    axes = figure.subplots()
    keys, width, bars = list(next(iter(series.values()))), 0.8 / len(series), []
    for i, (label, values) in enumerate(series.items()):
        at = [j + (i - (len(series) - 1) / 2) * width for j in range(len(keys))]
        colour = SERIES[i % len(SERIES)]
        bars.append(axes.bar(at, [values[key] for key in keys], width * 0.9, color=colour, label=label))
    axes.set_xticks(range(len(keys)), keys)
    quiet(axes)
    legend(figure, axes, len(series))
    return figure, axes, bars
