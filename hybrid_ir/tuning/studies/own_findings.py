"""What each study says beyond tests between its points. In: the points' results. Out: the study's own `Findings`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hybrid_ir.data import open_store
from hybrid_ir.evaluation import PERTURBATIONS
from hybrid_ir.languages import language_family, language_script
from hybrid_ir.measure_names import PRECISIONS
from hybrid_ir.tuning.choice import PointResult
from hybrid_ir.tuning.cost import encoder_parameters
from hybrid_ir.tuning.page_parts import Findings, Table
from hybrid_ir.tuning.studies.drawings import draw_changes, draw_costs, draw_perturbed
from hybrid_ir.tuning.studies.study import Study
from hybrid_ir.tuning.studies.trial_measures import Probes, mean_probes, per_language, per_seen, training_seconds

Results = Mapping[str, PointResult]
"""By the labels of the points."""


def _ratios(study: Study, results: Results, probes: Probes, out: Path) -> Findings:
    tested = [r for r in results.values() if "AP_mean" in r.test]
    along = [(r.point["batch.alpha"], r) for r in tested if set(r.point) == {"batch.alpha"}]
    along.sort(key=lambda pair: pair[0])
    if len(along) < 3:
        return Findings()
    best_alpha, best = max(along, key=lambda pair: pair[1].test["AP_mean"])
    half = best.test_half_width["AP_mean"]
    near = best.test["AP_mean"] - (0 if math.isnan(half) else half)
    close = [f"{alpha:g}" for alpha, r in along if r.test["AP_mean"] >= near]
    top = max(tested, key=lambda r: r.test["AP_mean"])
    least = min(tested, key=lambda r: r.test.get("rank_distance", math.inf))
    said = [
        f"Along alpha, test AP_mean is highest at alpha={best_alpha:g} ({best.test['AP_mean']:.3f}); within that "
        f"point's interval over seeds lie alpha={', '.join(close)}.",
        f"Over all mixes the highest test AP_mean is {top.test['AP_mean']:.3f} ({top.label}), the lowest rank distance "
        f"{least.test['rank_distance']:.1f} ({least.label}).",
    ]
    return Findings(sentences=said)


def _by_family(study: Study, results: Results, probes: Probes, out: Path) -> Findings:
    ap = {label: per_language(r, out, "AP_mono") for label, r in results.items() if r.trials}
    base = "monolingual"
    others = [label for label in ap if label != base]
    if base not in ap or not others:
        return Findings()
    languages = sorted(ap[base])
    columns = ("", base, *(f"{label} minus {base}" for label in others))

    def row(name: str, members: Sequence[str]) -> list[str]:
        own = float(np.mean([ap[base][x] for x in members]))
        changes = [float(np.mean([ap[label][x] - ap[base][x] for x in members])) for label in others]
        return [name, f"{own:.3f}", *(f"{change:+.3f}" for change in changes)]

    rows = [row(f"{x} ({language_family(x)}, {language_script(x)})", [x]) for x in languages]
    note = "Queries and passages both in the language; test means over seeds."
    tables = [Table("AP_mono by language", note, columns, rows)]
    for title, of in (("family", language_family), ("script", language_script)):
        groups: dict[str, list[str]] = defaultdict(list)
        for x in languages:
            groups[of(x)].append(x)
        rows = [row(f"{name} ({', '.join(members)})", members) for name, members in sorted(groups.items())]
        tables.append(Table(f"AP_mono by {title}", "Means over the languages in brackets.", columns, rows))
    said = []
    changed = {label: {x: ap[label][x] - ap[base][x] for x in languages} for label in others}
    for label, changes in changed.items():
        worst, best = min(changes, key=changes.__getitem__), max(changes, key=changes.__getitem__)
        lower = sum(change < 0 for change in changes.values())
        said.append(
            f"{label} lowers AP_mono in {lower} of {len(languages)} languages against {base}: from "
            f"{changes[worst]:+.3f} ({worst}) to {changes[best]:+.3f} ({best}), on average "
            f"{np.mean(list(changes.values())):+.3f}."
        )
    note = f"AP_mono minus that of {base} batches, by language: below zero is what the mix costs."
    return Findings(sentences=said, tables=tables, figures=[("Change by language", note, draw_changes(changed))])


def _sizes(study: Study, results: Results, probes: Probes, out: Path) -> Findings:
    rows, lines = [], defaultdict(list)
    for label, r in results.items():
        if not r.trials:
            continue
        name, layers = _encoder(study, r)
        seconds, found = training_seconds(r, out), mean_probes(r, probes)
        within = [found.get(f"miracl/{m}", found[m]) for m in ("nDCG@10", "R@100") if found]
        millions = (encoder_parameters(name, layers) or 0) / 1e6
        rows.append([label, f"{millions:.2f}", f"{seconds:.0f}", *(f"{value:.3f}" for value in within)])
        if found:
            lines[str(r.point.get("recipe", ""))].append((seconds, *within, _called(study, r)))
    on_miracl = any(test.collection == "miracl" for test in study.collections)
    table = Table(
        "Size, cost and retrieval within each language",
        "Parameters without the vocabulary's, in millions; seconds of training; nDCG@10 and R@100 with queries and "
        f"passages in one language ({'MIRACL' if on_miracl else 'the test'}), means over languages and seeds.",
        ("point", "million parameters", "training s", "nDCG@10", "R@100"),
        rows,
    )
    said = []
    for recipe, points in lines.items():
        points.sort()
        (s0, n0, _, a), (s1, n1, _, b) = points[0], points[-1]
        said.append(
            f"Under {recipe} batches {b} reaches nDCG@10 {n1:.3f} and {a} {n0:.3f}, for {s1 / max(s0, 1e-9):.1f} times "
            "the training time."
        )
    note = "Retrieval within each language by training time; a dot an encoder, a line a kind of batches."
    figures = [("Quality and cost", note, draw_costs(lines))] if lines else []
    return Findings(sentences=said, tables=[table], figures=figures)


def _encoders(study: Study, results: Results, probes: Probes, out: Path) -> Findings:
    found = {label: mean_probes(r, probes) for label, r in results.items()}
    measures = ("accuracy_to_en", "accuracy_from_en")
    rows = [[label, *(f"{values[m]:.3f}" for m in measures)] for label, values in found.items() if values]
    note = (
        "Finding a test question by its translation, among all test questions, as Tatoeba's accuracy: means over "
        "languages and seeds."
    )
    said = []
    for recipe in dict.fromkeys(r.point.get("recipe") for r in results.values()):
        ranked = [r for r in results.values() if r.point.get("recipe") == recipe and "AP_mean" in r.test]
        ranked.sort(key=lambda r: -r.test["AP_mean"])
        shown = ", ".join(f"{_called(study, r)} {r.test['AP_mean']:.3f}" for r in ranked)
        said.append(f"By test AP_mean under {recipe}: {shown}.")
    table = Table("Search by translation", note, ("point", "to English", "from English"), rows)
    return Findings(sentences=said, tables=[table])


def _encoder(study: Study, result: PointResult) -> tuple[str, int | None]:
    """Name and layers of a point's encoder; None = all of them."""
    section = study.experiment.encoder
    return str(result.point.get("encoder.name", section.name)), result.point.get("encoder.layers", section.layers)


def _called(study: Study, result: PointResult) -> str:
    name, layers = _encoder(study, result)
    return name if layers is None else f"{layers} layers"


def _robust(study: Study, results: Results, probes: Probes, out: Path) -> Findings:
    found = {label: values for label, r in results.items() if (values := mean_probes(r, probes))}
    rows = [
        [f"{label}, {kind}", f"{values[f'{kind}/changed']:.0%}"]
        + [f"{values[f'{kind}/{m}']:.3f} ({_change(values, kind, m)})" for m in PRECISIONS]
        for label, values in found.items()
        for kind in ("clean", *PERTURBATIONS)
    ]
    note = (
        "Test means over seeds; in brackets the change against clean queries. 'Changed': the share of queries that the "
        "perturbation altered at all."
    )
    tables = [Table("Perturbed queries", note, ("queries", "changed", *PRECISIONS), rows)]
    said = [_losses(found, m) for m in PRECISIONS if {"hybrid", "monolingual"} <= found.keys()]
    trained = study.experiment.batch.languages or tuple(open_store(study.experiment.store).manifest["languages"])
    seen = {label: per_seen(r, out, trained) for label, r in results.items()}
    rows = [[label, *(f"{ap:.3f}" for ap in values.values())] for label, values in seen.items() if len(values) == 3]
    if rows:
        note = (
            "AP by whether training saw the languages of query and passage (ordered pairs, one language on both sides "
            "included)."
        )
        columns = ("point", "trained pairs", "one side unseen", "both sides unseen")
        tables.append(Table("Languages that training never saw", note, columns, rows))
    figures = [("Perturbed queries", "AP_multi by perturbation.", draw_perturbed(found))] if found else []
    return Findings(sentences=said, tables=tables, figures=figures)


def _losses(found: Probes, measure: str) -> str:
    """Under which perturbations hybrid keeps more of a measure than monolingual."""

    def losses(label: str) -> list[float]:
        clean = max(found[label][f"clean/{measure}"], 1e-9)
        return [1 - found[label][f"{kind}/{measure}"] / clean for kind in PERTURBATIONS]

    hybrid, monolingual = losses("hybrid"), losses("monolingual")
    kept = [kind for kind, a, b in zip(PERTURBATIONS, hybrid, monolingual, strict=True) if a < b]
    return (
        f"Hybrid loses a smaller share of its {measure} than monolingual under {', '.join(kept) or 'none'} of "
        f"{len(PERTURBATIONS)} perturbations (hybrid {', '.join(f'{x:.0%}' for x in hybrid)}; monolingual "
        f"{', '.join(f'{x:.0%}' for x in monolingual)}, in the order of the table)."
    )


def _change(values: Mapping[str, float], kind: str, measure: str) -> str:
    clean = values[f"clean/{measure}"]
    return "0 %" if kind == "clean" or not clean else f"{values[f'{kind}/{measure}'] / clean - 1:+.0%}"


OWN_FINDINGS: Mapping[str, Callable[[Study, Results, Probes, Path], Findings]] = {
    "mixing_ratio": _ratios,
    "monolingual_degradation": _by_family,
    "model_size": _sizes,
    "model_choice": _encoders,
    "robustness": _robust,
}
