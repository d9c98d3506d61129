"""Pictures for a page of the documentation: the house's drawing kit, in the colours that its pages have on white.

In: axes and figures. Out: a PNG.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybrid_ir.reports import quiet

INK, MUTED, LINE = "#1b1f24", "#626b75", "#dde1e6"
COLOURS = ("#0b5cad", "#c2570c", "#1c7c54", "#8c3fa8", "#9a7400", "#5c6670")


def calm(axes: Any, title: str, x: str, y: str) -> None:
    """Both axes in powers, with plain numbers at 1, 2 and 5 of each, or at 1 alone of many; light guides, no frame.

    It is called when what is drawn is there.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    dress(axes, title, x, y)


def dress(axes: Any, title: str, x: str, y: str) -> None:
    """Light guides, no frame, and what the axes are; their scales stay."""
    quiet(axes)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="both", color=LINE, linewidth=0.6)
    axes.tick_params(which="both", length=0, colors=MUTED)
    axes.set_title(title, loc="left", color=INK)
    axes.set_xlabel(x, color=MUTED)
    axes.set_ylabel(y, color=MUTED)


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=130, facecolor="white", bbox_inches="tight", pad_inches=0.1)
