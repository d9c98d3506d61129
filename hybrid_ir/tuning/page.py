"""The page of a sweep. In: the rows of its trials, and what a study adds. Out: one page that loads nothing.

It shows every point with its interval over seeds, the choice, and three pictures where the points allow them: the curve
along `alpha`, the triangle of mixes, quality against language bias. Words and layout are in sweep_report.html.j2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_ir.config import KINDS, Experiment, leaf_texts
from hybrid_ir.measure_names import HEADLINE, SWEEP, best_of, digits
from hybrid_ir.reports import INK, LINE, MUTED, PAPER, SERIES, drawing, quiet, render, svg
from hybrid_ir.tuning.choice import PointResult, choose, pareto, point_results
from hybrid_ir.tuning.page_parts import Findings
from hybrid_ir.tuning.points import trial_experiment
from hybrid_ir.tuning.search_space import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_sweep_report(
    path: Path, title: str, base: Experiment, space: Space, rows: Sequence[Mapping[str, Any]], findings: Findings
) -> None:
    results = point_results(rows)
    chosen, front = choose(results, space.max_rank_distance), pareto(results)
    weights: dict[str, dict[str, float]] = {}
    for r in results:
        mix = trial_experiment(base, r.point, space.seeds[0]).batch.weights if r.validation else {}
        weights |= {r.label: dict(mix.items())} if mix else {}
    with drawing():
        pictures = [(t, note, svg(figure, f"figure-{i}")) for i, (t, note, figure) in enumerate(findings.figures)]
        along = alpha_points(results, weights)
        if len(along) >= 3:
            note = (
                "Test measures by the share of monolingual batches, the rest cross-lingual: means over seeds, and the "
                "95 % interval of the mean (Student's t)."
            )
            pictures.append(("Along alpha", note, svg(draw_curve(along), "alpha")))
        corners = {label: mix for label, mix in weights.items() if "recipe" not in point_of(results, label)}
        if len(corners) >= 4 and any(mix.get("multilingual", 0) > 0 for mix in corners.values()):
            note = "Each circle is a mix, at its weights of the three kinds of batches; test means over seeds."
            pictures.append(("The triangle of mixes", note, svg(draw_triangles(results, corners), "triangle")))
        if sum("rank_distance" in r.test for r in results) > 1:
            note = (
                "Test means over seeds: up is better, left is less bias. Filled: the Pareto set of validation; bold: "
                "chosen."
            )
            pictures.append(("Quality and bias", note, svg(draw_trade_off(results, front, chosen), "trade-off")))
    html = render(
        "sweep_report.html.j2",
        title=title,
        question=findings.question,
        sentences=[*findings.sentences, *_choice_sentences(chosen, front, space)],
        subtitle=_subtitle(base, space, rows),
        measures=SWEEP,
        results=results,
        chosen=chosen.label if chosen else None,
        front={r.label for r in front},
        cell=_cell,
        tables=findings.tables,
        pictures=pictures,
        rows=rows,
        settings=leaf_texts(base.model_dump(mode="json", exclude={"out", "store", "index", "serve"})),
    )
    path.write_text(html, encoding="utf-8", newline="\n")


def point_of(results: Sequence[PointResult], label: str) -> Mapping[str, Any]:
    return next(r.point for r in results if r.label == label)


def alpha_points(
    results: Sequence[PointResult], weights: Mapping[str, Mapping[str, float]]
) -> list[tuple[float, PointResult]]:
    """(alpha, point) of the points that differ in nothing but how much is monolingual and how much cross-lingual."""
    found = [
        (weights[r.label].get("monolingual", 0.0), r)
        for r in results
        if r.label in weights
        and r.test
        and set(r.point) <= {"batch.alpha", "batch.mix"}
        and not weights[r.label].get("multilingual")
    ]
    return sorted(found, key=lambda pair: pair[0])


def draw_curve(along: Sequence[tuple[float, PointResult]]) -> Figure:
    """A panel a measure: mean over seeds by alpha, with the band of its 95 % interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    for axes, measure, colour in zip(figure.subplots(2, 2).ravel(), HEADLINE, SERIES, strict=False):
        x = np.array([alpha for alpha, r in along if measure in r.test])
        y = np.array([r.test[measure] for _, r in along if measure in r.test])
        half = np.array([r.test_half_width[measure] for _, r in along if measure in r.test])
        if np.isfinite(half).all():
            axes.fill_between(x, y - half, y + half, color=colour, alpha=0.18, linewidth=0)
        axes.plot(x, y, color=colour, marker="o", markersize=3.5, linewidth=1.4)
        axes.set_title(measure, loc="left", color=INK)
        axes.set_xlabel("alpha (share of monolingual batches)", color=MUTED)
        quiet(axes)
    return figure


def draw_triangles(results: Sequence[PointResult], weights: Mapping[str, Mapping[str, float]]) -> Figure:
    """AP_mean and rank distance over the weights: monolingual left, cross-lingual right, multilingual on top."""
    import matplotlib
    from matplotlib.figure import Figure

    corners = {"monolingual": (0.0, 0.0), "cross_lingual": (1.0, 0.0), "multilingual": (0.5, math.sqrt(0.75))}
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    for axes, measure, colours in zip(
        figure.subplots(1, 2), ("AP_mean", "rank_distance"), ("viridis", "viridis_r"), strict=True
    ):
        known = [r for r in results if measure in r.test and r.label in weights]
        axes.plot(*zip(*corners.values(), corners["monolingual"], strict=False), color=LINE, linewidth=1.2, zorder=1)
        at = [
            tuple(sum(weights[r.label].get(kind, 0) * corners[kind][i] for kind in KINDS) for i in (0, 1))
            for r in known
        ]
        values = [r.test[measure] for r in known]
        dots = axes.scatter(
            [x for x, _ in at], [y for _, y in at], c=values, s=330, zorder=2, edgecolors=PAPER,
            cmap=matplotlib.colormaps[colours],
        )  # fmt: skip
        best = best_of(measure, values)
        for (x, y), value in zip(at, values, strict=True):
            text = f"{value:.0f}" if measure == "rank_distance" else f"{value:.3f}".removeprefix("0")
            shade = np.dot([0.2126, 0.7152, 0.0722], np.array(dots.to_rgba(value)[:3]) ** 2.2)
            weight = "bold" if value == best else "normal"
            axes.text(x, y, text, ha="center", va="center_baseline", fontsize=6, fontweight=weight, zorder=3,
                      color="#101010" if shade > 0.18 else "#ffffff")  # fmt: skip
        for (kind, (x, y)), shift in zip(corners.items(), (-0.11, -0.11, 0.11), strict=True):
            axes.text(x, y + shift, kind, ha="center", va="center", color=INK)
        axes.set_title(f"{measure} (best in bold)", color=INK, pad=14)
        axes.set(xlim=(-0.16, 1.16), ylim=(-0.17, 1.02), aspect="equal")
        axes.set_axis_off()
    return figure


def draw_trade_off(results: Sequence[PointResult], front: Sequence[PointResult], chosen: PointResult | None) -> Figure:
    """A dot a point: rank distance across, AP_mean up."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axes = figure.subplots()
    on_front = {r.label for r in front}
    for r in results:
        if "rank_distance" not in r.test:
            continue
        x, y = r.test["rank_distance"], r.test["AP_mean"]
        face = SERIES[0] if r.label in on_front else PAPER
        axes.plot(x, y, "o", markersize=6, markerfacecolor=face, markeredgecolor=SERIES[0])
        best = chosen is not None and r.label == chosen.label
        if len(results) > 8 and not best and r.label not in on_front:
            continue  # labels would cover each other; the table has them all
        bold = "bold" if best else "normal"
        axes.annotate(
            r.label, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=7, color=INK, fontweight=bold
        )
    axes.set_xlabel("rank_distance", color=MUTED)
    axes.set_ylabel("AP_mean", color=MUTED)
    axes.margins(x=0.14, y=0.12)
    quiet(axes)
    return figure


def _cell(result: PointResult, measure: str) -> tuple[str, str]:
    """Mean and half-width as text."""
    values = result.test or result.validation
    if measure not in values:
        return "\N{EN DASH}", ""
    half = result.test_half_width.get(measure, math.nan)
    shown = f".{digits(measure)}f"
    return f"{values[measure]:{shown}}", "" if math.isnan(half) else f"± {half:{shown}}"


def _choice_sentences(chosen: PointResult | None, front: Sequence[PointResult], space: Space) -> list[str]:
    bound = f" among points with a rank distance up to {space.max_rank_distance:g}" if space.max_rank_distance else ""
    sentences = []
    if chosen is None:
        sentences.append(f"No point was chosen: none keeps the bound of {space.max_rank_distance} on rank distance.")
    else:
        sentences.append(f"Chosen by AP_mean of validation{bound}: {chosen.label}.")
    if front:
        sentences.append(
            "Pareto set of validation (no other point is better on both AP_mean and rank distance): "
            + "; ".join(r.label for r in front)
            + "."
        )
    return sentences


def _subtitle(base: Experiment, space: Space, rows: Sequence[Mapping[str, Any]]) -> str:
    states: dict[str, int] = {}
    for row in rows:
        states[row["state"]] = states.get(row["state"], 0) + 1
    counts = ", ".join(f"{n} {state}" for state, n in states.items())
    seeds = ", ".join(str(seed) for seed in space.seeds)
    return f"{base.train.steps} steps of {base.batch.size} groups a trial, seeds {seeds}; trials: {counts}"
