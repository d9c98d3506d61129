"""What the data of a study says: tests between its points, tables, a picture, and plain sentences, a loss as plain as a win."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_ir.data import open_store
from hybrid_ir.evaluation import PERTURBATIONS, Comparison, compare_trials, holm, with_mean
from hybrid_ir.languages import language_family, language_script
from hybrid_ir.reports import drawing
from hybrid_ir.tuning.choice import PointResult, point_results
from hybrid_ir.tuning.cost import encoder_parameters
from hybrid_ir.tuning.page import Findings, Table
from hybrid_ir.tuning.studies.drawings import draw_changes, draw_costs, draw_perturbed
from hybrid_ir.tuning.studies.probes import mean_values
from hybrid_ir.tuning.studies.study import LAREQA, Study
from hybrid_ir.types import InputError

if TYPE_CHECKING:
    pass

Probes = Mapping[str, Mapping[str, float]]
"""Trial name -> what its study's probe measured."""


def find(study: Study, rows: Sequence[Mapping[str, Any]], probes: Probes, out: Path) -> Findings:
    """Everything a study's page has beyond its sweep's. `out` holds the trials."""
    results = {r.label: r for r in point_results(rows)}
    comparisons = compare_points(study, results, out)
    sentences = [comparison_sentence(group) for group in comparisons]
    tables = [_comparison_table(comparisons)] if comparisons else []
    figures: list[tuple[str, str, Any]] = []
    more = _MORE.get(study.name)
    if more is not None:
        with drawing():
            said, shown, drawn = more(study, results, probes, out)
        sentences, tables, figures = [*sentences, *said], [*tables, *shown], drawn
    benchmarks = _benchmark_table(study, results, probes)
    return Findings(study.question, sentences, [*tables, *([benchmarks] if benchmarks else [])], figures)


def _benchmark_table(study: Study, results: Mapping[str, PointResult], probes: Probes) -> Table | None:
    """A row a point, a column a measure of the study's further collections."""
    means = {r.label: mean_values([probes[t] for t in r.trials if t in probes]) for r in results.values()}
    names = {test.collection for test in study.collections}
    columns = list(dict.fromkeys(key for row in means.values() for key in row if key.partition("/")[0] in names))
    if not columns:
        return None
    rows = [[label, *(f"{row[c]:.3f}" if c in row else "-" for c in columns)] for label, row in means.items()]
    return Table("Benchmarks", "Means over seeds of the trained encoders, zero-shot.", ("point", *columns), rows)


def take_benchmark_as_test(rows: Sequence[dict[str, Any]], probes: Probes) -> None:
    """Where the store holds nothing out, the first LAReQA benchmark is the test whose measures the page shows."""
    for row in rows:
        if row["state"] == "complete" and not row["test"]:
            found = probes.get(row["trial"], {})
            for name in LAREQA:
                measures = {k.partition("/")[2]: v for k, v in found.items() if k.startswith(f"{name}/")}
                if measures:
                    row["test"] = with_mean(measures)
                    break


def compare_points(study: Study, results: Mapping[str, PointResult], out: Path) -> list[list[Comparison]]:
    """The study's comparisons, a list of measures for each pair, p-values corrected over all of them."""
    pairs = [(a, b) for a, b in study.compare if all(label in results and results[label].trials for label in (a, b))]
    found = [
        each
        for a, b in pairs
        for each in compare_trials((a, _per_query(results[a], out)), (b, _per_query(results[b], out)))
    ]
    corrected = holm(found)
    size = len(found) // len(pairs) if pairs else 0
    return [corrected[i * size : (i + 1) * size] for i in range(len(pairs))]


def comparison_sentence(group: Sequence[Comparison]) -> str:
    """`hybrid against monolingual: better on AP_multi (.41 against .23, p < .001); worse on ...; no difference shown on ...`"""
    parts: dict[str, list[str]] = defaultdict(list)
    for c in group:
        digits = 1 if c.measure == "rank_distance" else 3
        values = f"{c.values[0]:.{digits}f} against {c.values[1]:.{digits}f}, p {_p(c.p)}"
        parts[c.verdict].append(f"{c.measure} ({values})")
    order = ("better", "worse", "no difference shown")
    clauses = [f"{verdict} on {', '.join(parts[verdict])}" for verdict in order if parts[verdict]]
    lost = not parts["better"]
    end = f" {group[0].first} does not win." if lost else ""
    return f"{group[0].first} against {group[0].second}: {'; '.join(clauses)}.{end}"


def _comparison_table(comparisons: Sequence[Sequence[Comparison]]) -> Table:
    rows = []
    for c in (c for group in comparisons for c in group):
        digits = 1 if c.measure == "rank_distance" else 3
        interval = f"{c.low:+.{digits}f} to {c.high:+.{digits}f}"
        rows.append(
            [
                f"{c.first} against {c.second}",
                c.measure,
                f"{c.difference:+.{digits}f}",
                interval,
                _p(c.p).removeprefix("= "),
                c.verdict,
            ]
        )
    questions = comparisons[0][0].questions
    return Table(
        "Tests",
        f"Paired by test question ({questions}): its translations, language pairs and seeds are averaged first. The interval "
        "is a bootstrap over questions; p is a randomisation test's, corrected for the number of rows (Holm).",
        ("points", "measure", "difference", "95 % interval", "p", "first is"),
        rows,
    )


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _per_query(result: PointResult, out: Path) -> list[Path]:
    return [_test_of(out / "trials" / trial) / "per_query.parquet" for trial in result.trials]


def _test_of(run: Path) -> Path:
    """Folder of the measures that a trial's findings are over: the store's test, or else the first LAReQA benchmark."""
    for name in ("test", *LAREQA):
        if (run / name / "per_query.parquet").is_file():
            return run / name
    raise InputError(f"{run} was evaluated on no test: prepare with test_fraction above 0, or name a collection")


More = tuple[list[str], list[Table], list[tuple[str, str, Any]]]


def _ratios(study: Study, results: Mapping[str, PointResult], probes: Probes, out: Path) -> More:
    along = [
        (r.point["batch.alpha"], r) for r in results.values() if set(r.point) == {"batch.alpha"} and "AP_mean" in r.test
    ]
    along.sort(key=lambda pair: pair[0])
    if len(along) < 3:
        return [], [], []
    best_alpha, best = max(along, key=lambda pair: pair[1].test["AP_mean"])
    half = best.test_half_width["AP_mean"]
    close = [
        alpha for alpha, r in along if r.test["AP_mean"] >= best.test["AP_mean"] - (0 if math.isnan(half) else half)
    ]
    said = [
        f"Along alpha, test AP_mean is highest at alpha={best_alpha:g} ({best.test['AP_mean']:.3f}); within that point's "
        f"interval over seeds lie alpha={', '.join(f'{alpha:g}' for alpha in close)}."
    ]
    everything = [r for r in results.values() if "AP_mean" in r.test]
    top = max(everything, key=lambda r: r.test["AP_mean"])
    least = min(everything, key=lambda r: r.test.get("rank_distance", math.inf))
    said.append(
        f"Over all mixes the highest test AP_mean is {top.test['AP_mean']:.3f} ({top.label}), the lowest rank distance "
        f"{least.test['rank_distance']:.1f} ({least.label})."
    )
    return said, [], []


def _by_family(study: Study, results: Mapping[str, PointResult], probes: Probes, out: Path) -> More:
    ap = {label: _per_language(r, out, "AP_mono") for label, r in results.items() if r.trials}
    base = "monolingual"
    others = [label for label in ap if label != base]
    if base not in ap or not others:
        return [], [], []
    languages = sorted(ap[base])
    columns = ("", base, *(f"{label} minus {base}" for label in others))

    def row(name: str, members: Sequence[str]) -> list[str]:
        own = float(np.mean([ap[base][x] for x in members]))
        changes = [float(np.mean([ap[label][x] - ap[base][x] for x in members])) for label in others]
        return [name, f"{own:.3f}", *(f"{change:+.3f}" for change in changes)]

    tables = [
        Table(
            "AP_mono by language",
            "Queries and passages both in the language; test means over seeds.",
            columns,
            [row(f"{x} ({language_family(x)}, {language_script(x)})", [x]) for x in languages],
        )
    ]
    for title, of in (("family", language_family), ("script", language_script)):
        groups: dict[str, list[str]] = defaultdict(list)
        for x in languages:
            groups[of(x)].append(x)
        rows = [row(f"{name} ({', '.join(members)})", members) for name, members in sorted(groups.items())]
        tables.append(Table(f"AP_mono by {title}", "Means over the languages in brackets.", columns, rows))
    said = []
    for label in others:
        changes = {x: ap[label][x] - ap[base][x] for x in languages}
        worst, best = min(changes, key=changes.__getitem__), max(changes, key=changes.__getitem__)
        lower = sum(change < 0 for change in changes.values())
        said.append(
            f"{label} lowers AP_mono in {lower} of {len(languages)} languages against {base}: from {changes[worst]:+.3f} "
            f"({worst}) to {changes[best]:+.3f} ({best}), on average {np.mean(list(changes.values())):+.3f}."
        )
    figure = draw_changes({label: {x: ap[label][x] - ap[base][x] for x in languages} for label in others})
    note = f"AP_mono minus that of {base} batches, by language: below zero is what the mix costs."
    return said, tables, [("Change by language", note, figure)]


def _sizes(study: Study, results: Mapping[str, PointResult], probes: Probes, out: Path) -> More:
    rows, lines = [], defaultdict(list)
    for label, r in results.items():
        if not r.trials:
            continue
        name = str(r.point["encoder.name"])
        found = mean_values([probes[trial] for trial in r.trials if trial in probes])
        millions = (encoder_parameters(name) or 0) / 1e6
        seconds = float(
            np.mean([json.loads((out / "trials" / t / "metrics.json").read_text())["seconds"] for t in r.trials])
        )
        rows.append(
            [
                label,
                f"{millions:.2f}",
                f"{seconds:.0f}",
                *(f"{_within(found, measure):.3f}" for measure in ("nDCG@10", "R@100") if found),
            ]
        )
        if found:
            lines[str(r.point.get("recipe", ""))].append(
                (seconds, _within(found, "nDCG@10"), _within(found, "R@100"), name)
            )
    on_miracl = any(test.collection == "miracl" for test in study.collections)
    table = Table(
        "Size, cost and retrieval within each language",
        "Parameters without the vocabulary's, in millions; seconds of training; nDCG@10 and R@100 with queries and passages in "
        f"one language ({'MIRACL' if on_miracl else 'the test'}), means over languages and seeds.",
        ("point", "million parameters", "training s", "nDCG@10", "R@100"),
        rows,
    )
    said = []
    for recipe, points in lines.items():
        points.sort()
        (s0, n0, _, a), (s1, n1, _, b) = points[0], points[-1]
        said.append(
            f"Under {recipe} batches {b} reaches nDCG@10 {n1:.3f} and {a} {n0:.3f}, for {s1 / max(s0, 1e-9):.1f} times the "
            "training time."
        )
    note = "Retrieval within each language by training time; a dot an encoder, a line a kind of batches."
    return said, [table], [("Quality and cost", note, draw_costs(lines))] if lines else []


def _within(found: Mapping[str, float], measure: str) -> float:
    return found.get(f"miracl/{measure}", found[measure])


def _encoders(study: Study, results: Mapping[str, PointResult], probes: Probes, out: Path) -> More:
    rows = []
    for label, r in results.items():
        found = mean_values([probes[trial] for trial in r.trials if trial in probes])
        if found:
            rows.append([label, *(f"{found[m]:.3f}" for m in ("accuracy_to_en", "accuracy_from_en"))])
    note = (
        "Finding a test question by its translation, among all test questions, as Tatoeba's accuracy: means over languages "
        "and seeds."
    )
    ranking = {
        recipe: sorted(
            (r for r in results.values() if r.point.get("recipe") == recipe and "AP_mean" in r.test),
            key=lambda r: -r.test["AP_mean"],
        )
        for recipe in dict.fromkeys(r.point.get("recipe") for r in results.values())
    }
    said = [
        f"By test AP_mean under {recipe}: "
        + ", ".join(f"{r.point['encoder.name']} {r.test['AP_mean']:.3f}" for r in ranked)
        + "."
        for recipe, ranked in ranking.items()
    ]
    return said, [Table("Search by translation", note, ("point", "to English", "from English"), rows)], []


def _robust(study: Study, results: Mapping[str, PointResult], probes: Probes, out: Path) -> More:
    measures = ("AP_mono", "AP_cross", "AP_multi")
    found = {
        label: mean_values([probes[trial] for trial in r.trials if trial in probes]) for label, r in results.items()
    }
    found = {label: values for label, values in found.items() if values}
    kinds = ("clean", *PERTURBATIONS)
    rows = [
        [f"{label}, {kind}", f"{values[f'{kind}/changed']:.0%}"]
        + [f"{values[f'{kind}/{m}']:.3f} ({_change(values, kind, m)})" for m in measures]
        for label, values in found.items()
        for kind in kinds
    ]
    tables = [
        Table(
            "Perturbed queries",
            "Test means over seeds; in brackets the change against clean queries. 'Changed': the share of queries that the "
            "perturbation altered at all.",
            ("queries", "changed", *measures),
            rows,
        )
    ]
    said = []
    if {"hybrid", "monolingual"} <= found.keys():
        for m in measures:
            losses = {
                label: [
                    1 - found[label][f"{kind}/{m}"] / max(found[label][f"clean/{m}"], 1e-9) for kind in PERTURBATIONS
                ]
                for label in ("hybrid", "monolingual")
            }
            kept = [k for k, a, b in zip(PERTURBATIONS, losses["hybrid"], losses["monolingual"], strict=True) if a < b]
            said.append(
                f"Hybrid loses a smaller share of its {m} than monolingual under {', '.join(kept) or 'none'} "
                f"of {len(PERTURBATIONS)} perturbations (hybrid {', '.join(f'{x:.0%}' for x in losses['hybrid'])}; monolingual "
                f"{', '.join(f'{x:.0%}' for x in losses['monolingual'])}, in the order of the table)."
            )
    trained = study.experiment.batch.languages or tuple(open_store(study.experiment.store).manifest["languages"])
    unseen = _unseen_table(results, out, trained)
    if unseen is not None:
        tables.append(unseen)
    return said, tables, [("Perturbed queries", "AP_multi by perturbation.", draw_perturbed(found))] if found else []


def _change(values: Mapping[str, float], kind: str, measure: str) -> str:
    clean = values[f"clean/{measure}"]
    return "0 %" if kind == "clean" or not clean else f"{values[f'{kind}/{measure}'] / clean - 1:+.0%}"


def _unseen_table(results: Mapping[str, PointResult], out: Path, trained: Sequence[str]) -> Table | None:
    rows, columns = [], ("trained pairs", "one side unseen", "both sides unseen")
    for label, r in results.items():
        cells: dict[str, list[float]] = defaultdict(list)
        for trial in r.trials:
            summary = json.loads((_test_of(out / "trials" / trial) / "metrics.json").read_text(encoding="utf-8"))
            for query, passages in summary["matrix"].items():
                for passage, ap in passages.items():
                    if ap is not None:
                        cells[columns[(query not in trained) + (passage not in trained)]].append(ap)
        if len(cells) == len(columns):
            rows.append([label, *(f"{np.mean(cells[name]):.3f}" for name in columns)])
    note = "AP by whether training saw the languages of query and passage (ordered pairs, one language on both sides included)."
    return Table("Languages that training never saw", note, ("point", *columns), rows) if rows else None


_MORE: Mapping[str, Callable[[Study, Mapping[str, PointResult], Probes, Path], More]] = {
    "mixing_ratio": _ratios,
    "monolingual_degradation": _by_family,
    "model_size": _sizes,
    "model_choice": _encoders,
    "robustness": _robust,
}


def _per_language(result: PointResult, out: Path, measure: str) -> dict[str, float]:
    """Mean over trials of a measure of each language."""
    found: dict[str, list[float]] = defaultdict(list)
    for trial in result.trials:
        summary = json.loads((_test_of(out / "trials" / trial) / "metrics.json").read_text(encoding="utf-8"))
        for language, values in summary["per_language"].items():
            if values[measure] is not None:
                found[language].append(values[measure])
    return {language: float(np.mean(values)) for language, values in found.items()}
