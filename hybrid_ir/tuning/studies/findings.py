"""What the page of every study says. In: a study, its sweep's rows, its probes. Out: `Findings`.

A loss is said as plainly as a win. What one study alone says is in `own_findings`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.evaluation import LAREQA, Comparison, compare_trials, holm, with_mean
from hybrid_ir.measure_names import digits
from hybrid_ir.reports import drawing
from hybrid_ir.tuning.choice import PointResult, point_results
from hybrid_ir.tuning.page_parts import Findings, Table
from hybrid_ir.tuning.studies.own_findings import OWN_FINDINGS
from hybrid_ir.tuning.studies.study import Study
from hybrid_ir.tuning.studies.trial_measures import Probes, mean_probes, test_folder


def find(study: Study, rows: Sequence[Mapping[str, Any]], probes: Probes, out: Path) -> Findings:
    """Everything a study's page has beyond its sweep's. `out` holds the trials."""
    results = {r.label: r for r in point_results(rows)}
    comparisons = compare_points(study, results, out)
    with drawing():
        own = OWN_FINDINGS[study.name](study, results, probes, out) if study.name in OWN_FINDINGS else Findings()
    tables = [_comparison_table(comparisons)] if comparisons else []
    return Findings(
        study.question,
        [*map(comparison_sentence, comparisons), *own.sentences],
        [*tables, *own.tables, *_benchmark_tables(study, results, probes)],
        own.figures,
    )


def compare_points(study: Study, results: Mapping[str, PointResult], out: Path) -> list[list[Comparison]]:
    """The study's comparisons, a list of measures for each pair, p-values corrected over all of them."""
    pairs = [(a, b) for a, b in study.compare if all(label in results and results[label].trials for label in (a, b))]
    files = {label: [test_folder(out, t) / "per_query.parquet" for t in r.trials] for label, r in results.items()}
    found = [each for a, b in pairs for each in compare_trials((a, files[a]), (b, files[b]))]
    corrected = holm(found)
    size = len(found) // len(pairs) if pairs else 0
    return [corrected[i * size : (i + 1) * size] for i in range(len(pairs))]


def comparison_sentence(group: Sequence[Comparison]) -> str:
    """`hybrid against monolingual: better on AP_multi (.41 against .23, p < .001); worse on ...; no difference ...`"""
    parts: dict[str, list[str]] = defaultdict(list)
    for c in group:
        shown = f".{digits(c.measure)}f"
        values = f"{c.values[0]:{shown}} against {c.values[1]:{shown}}, p {_p(c.p)}"
        parts[c.verdict].append(f"{c.measure} ({values})")
    order = ("better", "worse", "no difference shown")
    clauses = [f"{verdict} on {', '.join(parts[verdict])}" for verdict in order if parts[verdict]]
    end = "" if parts["better"] else f" {group[0].first} does not win."
    return f"{group[0].first} against {group[0].second}: {'; '.join(clauses)}.{end}"


def _comparison_table(comparisons: Sequence[Sequence[Comparison]]) -> Table:
    rows = []
    for c in (c for group in comparisons for c in group):
        shown = f"+.{digits(c.measure)}f"
        interval = f"{c.low:{shown}} to {c.high:{shown}}"
        p = _p(c.p).removeprefix("= ")
        rows.append([f"{c.first} against {c.second}", c.measure, f"{c.difference:{shown}}", interval, p, c.verdict])
    questions = comparisons[0][0].questions
    return Table(
        "Tests",
        f"Paired by test question ({questions}): its translations, language pairs and seeds are averaged first. The "
        "interval is a bootstrap over questions; p is a randomisation test's, corrected for the number of rows (Holm).",
        ("points", "measure", "difference", "95 % interval", "p", "first is"),
        rows,
    )


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _benchmark_tables(study: Study, results: Mapping[str, PointResult], probes: Probes) -> list[Table]:
    """A row a point, a column a measure of the study's further collections; none where there is no measure."""
    means = {label: mean_probes(r, probes) for label, r in results.items()}
    names = {test.collection for test in study.collections}
    columns = list(dict.fromkeys(key for row in means.values() for key in row if key.partition("/")[0] in names))
    rows = [[label, *(f"{row[c]:.3f}" if c in row else "-" for c in columns)] for label, row in means.items()]
    note = "Means over seeds of the trained encoders, zero-shot."
    return [Table("Benchmarks", note, ("point", *columns), rows)] if columns else []


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
