"""The pictures of the studies' pages; see `hybrid_ir.drawing` for what all pictures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hybrid_ir.evaluation import PERTURBATIONS
from hybrid_ir.reports import INK, MUTED, SERIES, legend, quiet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_changes(changes: Mapping[str, Mapping[str, float]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    axes = figure.subplots()
    languages = list(next(iter(changes.values())))
    width = 0.8 / len(changes)
    for i, (label, values) in enumerate(changes.items()):
        at = [j + (i - (len(changes) - 1) / 2) * width for j in range(len(languages))]
        axes.bar(at, [values[x] for x in languages], width * 0.9, color=SERIES[i % len(SERIES)], label=label)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xticks(range(len(languages)), languages)
    quiet(axes)
    legend(figure, axes, len(changes))
    return figure


def draw_costs(lines: Mapping[str, Sequence[tuple[float, float, float, str]]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    for axes, (place, measure) in zip(figure.subplots(1, 2), ((1, "nDCG@10"), (2, "R@100")), strict=True):
        for i, (recipe, points) in enumerate(lines.items()):
            axes.plot(
                [p[0] for p in points],
                [p[place] for p in points],
                marker="o",
                color=SERIES[i],
                label=recipe,
                linewidth=1.3,
            )
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


def draw_perturbed(found: Mapping[str, Mapping[str, float]]) -> Figure:
    from matplotlib.figure import Figure

    kinds = ("clean", *PERTURBATIONS)
    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(found)
    for i, (label, values) in enumerate(found.items()):
        at = [j + (i - (len(found) - 1) / 2) * width for j in range(len(kinds))]
        bars = axes.bar(at, [values[f"{k}/AP_multi"] for k in kinds], width * 0.9, color=SERIES[i], label=label)
        axes.bar_label(bars, fmt="%.3f", padding=2, fontsize=7, color=INK)
    axes.set_xticks(range(len(kinds)), kinds)
    quiet(axes)
    legend(figure, axes, len(found))
    return figure
