"""The drawings of the report pages: heat maps of languages, bars by language, curves of a training.

In: numbers by name. Out: matplotlib figures, which a page takes as inline SVG, and a PNG for a README.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hybrid_ir.measure_names import HEADLINE
from hybrid_ir.reports.drawing_kit import DASH, INK, MUTED, SERIES, drawing, legend, quiet
from hybrid_ir.reports.training_log import Curve, smooth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Matrix = Mapping[str, Mapping[str, float | None]]


def heat_map_png(path: Path | str, matrices: Mapping[str, Matrix], *, dpi: int = 110) -> None:
    """The matrices side by side on one colour scale, on white: a picture for a README."""
    from PIL import Image

    buffer = io.BytesIO()
    with drawing():
        figure = draw_heat_maps(matrices, ink="#1b1f24", paper="#ffffff", empty="#e6e8eb")
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", bbox_inches="tight", pad_inches=0.1)
    # A palette is a third of the bytes. Maximum coverage keeps the colour of a lone cell, which median cut bends.
    picture = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(path, "PNG", optimize=True)


def draw_heat_maps(matrices: Mapping[str, Matrix], *, ink: str, paper: str, empty: str, measure: str = "AP") -> Figure:
    """The matrices side by side on one colour scale: rows are query languages, columns passage languages."""
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
    bar.ax.set_title(measure, color=ink, fontsize=8)
    return figure


def draw_bars(
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


def draw_curves(panels: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """A panel a key, in it a line a name; the loss pale as logged, and smoothed over that."""
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
                steps, values = steps[::thin], smooth(values)[::thin]
            marker = "o" if key in HEADLINE and len(steps) <= 30 else ""
            axes.plot(steps, values, color=colour, linewidth=1.3, marker=marker, markersize=2.6, label=name)
        axes.set_title(key, color=INK, loc="left")
        if key == "learning_rate":
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_ylim(bottom=0)
        quiet(axes)
    legend(figure, grid[0], len(panels[next(iter(panels))]))
    return figure
