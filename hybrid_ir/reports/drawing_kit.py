"""The kit that all pages and pictures share: colours that follow light, dark and print, inline SVG, templates, numbers.

In: figures, values, the name of a template. Out: text for a page. The same input gives the same bytes: no dates, no
random ids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any

from hybrid_ir.measure_names import digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DASH = "\N{EN DASH}"  # a range, or nothing measured

# matplotlib writes these colours into the SVG; `svg` puts the page's CSS variables in their place, so that one
# drawing follows light, dark and print.
INK, MUTED, LINE, PAPER = "#010201", "#010202", "#010203", "#010204"
SERIES = [f"#0103{i:02d}" for i in range(6)]
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper"} | {
    c: f"series-{i}" for i, c in enumerate(SERIES)
}


def render(template: str, **values: Any) -> str:
    """A page from one of the package's templates. A name that the template knows and the call lacks is an error."""
    import jinja2

    files = resources.files("hybrid_ir.reports") / "templates"
    loader = jinja2.FunctionLoader(lambda name: files.joinpath(name).read_text(encoding="utf-8"))
    page = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters |= {"measure": format_measure, "interval": format_interval}
    return page.get_template(template).render(**values)


@contextmanager
def drawing() -> Iterator[None]:
    """Text stays text, `$` is no formula, and ids depend on the drawing alone."""
    import matplotlib

    text = {"svg.fonttype": "none", "text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 8.0}
    look = {"svg.hashsalt": "hybrid_ir", "axes.linewidth": 0.6, "axes.titlesize": 9.0, "legend.fontsize": 8.5}
    rc: dict[Any, Any] = text | look | {f"figure.constrained_layout.{side}_pad": 0.09 for side in "wh"}
    with matplotlib.rc_context(rc):
        yield


def svg(figure: Figure, name: str) -> str:
    """The drawing as inline SVG that scales with the page and takes its colours from it."""
    import markupsafe

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.02, metadata=nothing)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", buffer.getvalue(), count=2)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)  # ids are of the page, and it has several drawings
    return markupsafe.Markup(svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{name}"', 1))


def quiet(axes: Any) -> None:
    """Light horizontal guides, and no frame."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=MUTED)


def legend(figure: Figure, axes: Any, n_names: int) -> None:
    """Above the drawing, where there is more than one name."""
    if n_names > 1:
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=min(n_names, 4), frameon=False, labelcolor=INK)


def format_measure(value: float | None, measure: str, more: int = 0) -> str:
    """As tables print it; `more` digits where two values would look equal."""
    return DASH if value is None else f"{value:.{digits(measure) + more}f}"


def format_interval(run: Mapping[str, Any], measure: str) -> str:
    """`.41–.46` (of what may be negative `-.12 to .03`), or nothing where the run has no interval."""
    low, high = run.get("intervals", {}).get(measure) or (None, None)
    between = DASH if low is None or low >= 0 else " to "
    return "" if low is None else f"{format_measure(low, measure)}{between}{format_measure(high, measure)}"
