"""Any encoders on one test, without training: which is better, by how much, and what it costs.

In: names of encoders and a collection. Out: a folder an encoder as `evaluate` writes it, then `comparison.json` and
`comparison.html`. An encoder that was measured before, on the same content and with the same settings, is not measured
again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hybrid_ir
from hybrid_ir.config import Experiment
from hybrid_ir.evaluation.evaluator import BM25, evaluate, evaluate_bm25, load_measured, made_from
from hybrid_ir.evaluation.public_tasks import Task
from hybrid_ir.evaluation.significance import Comparison, compare_queries, compare_trials, holm
from hybrid_ir.measure_names import BIAS, HEADLINE, MEASURES
from hybrid_ir.reports import write_comparison, write_task_comparison
from hybrid_ir.storage import is_uri, write_json
from hybrid_ir.types import Collection, InputError

SHOWN = (
    "checkpoint",
    *MEASURES,
    "measures",
    "over_queries",
    "pairs",
    "intervals",
    "bias",
    "cost",
    "seconds",
    "collapsed",
)  # of each encoder in comparison.json


def name_encoders(encoders: Sequence[str], bm25: bool = False) -> dict[str, str]:
    """{label: what to load}, in the order given, and BM25 last.

    A run folder stands for its checkpoint. A label is the last part of a name: `runs/mine` and `runs/mine/checkpoint`
    are `mine`, `intfloat/multilingual-e5-small` is `multilingual-e5-small`. Where two would be equal, all have a part
    more: `a-mine` and `b-mine`. Raises InputError for no encoder, or one named twice.
    """
    found = [str(Path(name) / "checkpoint") if (Path(name) / "checkpoint").is_dir() else name for name in encoders]
    if not found or len(set(found)) < len(found):
        raise InputError(f"encoders must be named once each, got {', '.join(encoders) or 'none'}")
    parts = [*map(_parts, found), *([(BM25,)] if bm25 else [])]
    for length in range(1, 1 + max(map(len, parts))):
        labels = ["-".join(each[-length:]) for each in parts]
        if len({label.casefold() for label in labels}) == len(labels):  # they are folders, also where case is nothing
            return dict(zip(labels, [*found, *([BM25] if bm25 else [])], strict=True))
    raise InputError(f"two of {', '.join(encoders)} are the same encoder; name each once")


def compare_encoders(
    encoders: Mapping[str, str],
    test: Collection | Task,
    out: Path,
    experiment: Experiment,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[str, int], None] = lambda label, texts: None,
) -> tuple[dict[str, dict[str, Any]], list[Comparison]]:
    """Measure each of `name_encoders`' encoders on the test, and each but the first against the first.

    The test is a collection, or a task whose `content` is known: a test set with judgements, on which BM25 is not
    ranked.
    Returns what each one's `metrics.json` holds, and the paired tests, p-values corrected over all of them (Holm). All
    encoders are loaded once before the first is measured, so that a wrong name is said in seconds. Of `experiment`,
    `encoder`, `evaluate`, `seed` and `index.pieces` are read, as `evaluate` reads them.
    """
    summaries = {label: _measured_before(name, test, out / label, experiment) for label, name in encoders.items()}
    for label, name in encoders.items():
        if summaries[label] is not None:
            say(f"{label}: measured before on the same test, taken from {out / label}")
        elif name == BM25:
            if isinstance(test, Task):
                raise InputError(f"BM25 is not ranked on {test.name}; leave it out with --no-bm25")
            say(f"{label}: ranking")
            summaries[label] = evaluate_bm25(test, out / label, experiment)
        else:
            say(f"{label}: encoding and ranking")
            model = load_measured(name, experiment)
            summaries[label] = evaluate(
                model, name, test, out / label, experiment, lambda texts, label=label: progress(label, texts)
            )
    known = {label: summary for label, summary in summaries.items() if summary is not None}
    comparisons = _against_the_first(known, out)
    page: dict[str, Any] = {
        "title": f"{test.name}: {', '.join(known)}",
        "subtitle": "Encoders as they are, measured on one test",
        "costs": {label: summary["cost"] for label, summary in known.items()},
        "paired": [{**asdict(c), "verdict": c.verdict} for c in comparisons],
    }
    if isinstance(test, Collection):
        runs = {label: {"summary": summary, "log": None} for label, summary in known.items()}
        write_comparison(out / "comparison.html", runs=runs, **page)
    else:
        write_task_comparison(out / "comparison.html", summaries=known, **page)
    write_json(
        out / "comparison.json",
        {
            "collection": test.name,
            "version": hybrid_ir.__version__,
            "encoders": {
                label: {"folder": label, **{key: summary[key] for key in SHOWN if key in summary}}
                for label, summary in known.items()
            },
            "comparisons": [{**asdict(c), "verdict": c.verdict} for c in comparisons],
        },
    )
    return known, comparisons


def _against_the_first(summaries: Mapping[str, Mapping[str, Any]], out: Path) -> list[Comparison]:
    first, *others = summaries
    if measures := summaries[first].get("measures"):  # of a task
        files = {label: out / label / "per_query.parquet" for label in summaries}
        pairs = [compare_queries((o, files[o]), (first, files[first]), list(measures)) for o in others]
        return holm([comparison for of_other in pairs for comparison in of_other])
    # A test of one language has neither pairs of languages nor a distance between them.
    known = [{**summary, **summary["bias"]} for summary in summaries.values()]
    measures = [measure for measure in (*HEADLINE, *BIAS) if all(s[measure] is not None for s in known)]
    files = {label: [out / label / "per_query.parquet"] for label in summaries}
    return holm(
        [
            comparison
            for other in others
            for comparison in compare_trials((other, files[other]), (first, files[first]), measures=measures)
        ]
    )


def _measured_before(name: str, test: Collection | Task, folder: Path, experiment: Experiment) -> dict[str, Any] | None:
    """What `folder` holds of this encoder, if it is of the same weights, test and settings."""
    model = None if name == BM25 else load_measured(name, experiment)
    made = made_from(model, test, experiment)
    try:
        summary = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or cut off
        return None
    return summary if summary.get("made_from") == made and (folder / "per_query.parquet").is_file() else None


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a path or of a hub name, without the `checkpoint` that every run has."""
    path = Path(name)
    parts = path.resolve().parts[1:] if path.exists() else tuple(part for part in name.split("/") if part)
    if is_uri(name):
        parts = parts[1:]
    return parts[:-1] if len(parts) > 1 and parts[-1] == "checkpoint" else parts
