"""What a task of the evaluation found: a value per query and measure, and the averages over languages with intervals.

In: per-query values of each language. Out: a table of them, and what `metrics.json` says of them.

Shape legend: `N` queries of one language, `M` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from hybrid_ir.evaluation.resampling import percentile_intervals, resample
from hybrid_ir.types import InputError, Rejected


@dataclass(frozen=True, slots=True)
class TaskResult:
    """`per_query` has query_id, language and a column for each measure, no value missing. `counts` is plain JSON:
    what took part and what was left out. `chance` is what guessing scores, by measure, where that is not about 0.

    `per_pair` has query_id, language, passage_language and the measures in the pool of that language of passages; None
    where all passages have one language, or each query's pool is of its own.
    """

    measures: tuple[str, ...]
    per_query: pa.Table
    counts: dict[str, Any]
    chance: dict[str, float] = field(default_factory=dict)
    per_pair: pa.Table | None = None


def per_query_table(rows: Mapping[str, tuple[Sequence[str], Mapping[str, np.ndarray]]]) -> pa.Table:
    """One table of {language: (query_ids, {measure: values})}, in the order given."""
    return pa.concat_tables(
        pa.table(
            {
                "query_id": pa.array(query_ids, pa.string()),
                "language": pa.array([language] * len(query_ids), pa.string()),
                **{measure: pa.array(np.asarray(values, np.float64)) for measure, values in columns.items()},
            }
        )
        for language, (query_ids, columns) in rows.items()
    )


def task_counts(of_language: Mapping[str, Mapping[str, int]], left_out: Sequence[str]) -> dict[str, Any]:
    """Counts by language, and the sums over languages of what was left out."""
    return {
        "per_language": of_language,
        "left_out": {name: sum(counts[name] for counts in of_language.values()) for name in left_out},
    }


def with_unread_files(result: TaskResult, unread: Sequence[Rejected]) -> TaskResult:
    """The result that also counts the files which were not read, and names them with their tags, by the reason."""
    by_reason: dict[str, list[str]] = {}
    for file in unread:
        by_reason.setdefault(file.reason.removeprefix("left out: "), []).append(f"{file.where} ({file.record})")
    files = {
        f"files not read, as {reason}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}": len(names)
        for reason, names in by_reason.items()
    }
    return replace(result, counts={**result.counts, "left_out": {**result.counts["left_out"], **files}})


def summarize(result: TaskResult, *, seed: int = 0, resamples: int = 1000) -> dict[str, Any]:
    """`measures` (each a mean over languages of means over queries), `per_language`, `intervals`, `chance`, `counts`.

    `over_queries` are means over all queries, as trec_eval's. Where there are pairs, `pairs` has a row for each.

    Intervals are percentiles of bootstrap resamples: each language's queries are drawn among themselves, so that every
    language keeps its size; `resamples=0` gives none. Queries count as independent: where languages translate one
    another (XCOPA), the interval of the mean is narrower than it should be.
    """
    language = result.per_query.column("language").to_numpy(zero_copy_only=False)
    values = np.stack([result.per_query.column(m).to_numpy() for m in result.measures], axis=1)
    if not len(values):
        raise InputError("no query was measured; check that the files hold queries with something relevant")
    if not np.isfinite(values).all():
        raise InputError("a measure of some query is not a number; the vectors hold NaN, so take another checkpoint")
    of_language = {code: values[language == code] for code in sorted(set(language))}
    per_language = {
        code: dict(zip(result.measures, part.mean(axis=0).tolist(), strict=True)) for code, part in of_language.items()
    }
    generator = np.random.default_rng(seed)
    means = [
        resample(partial(_mean_of_rows, part), len(part), resamples, generator) / len(of_language)
        for part in of_language.values()
    ]
    return {
        "measures": {m: float(np.mean([row[m] for row in per_language.values()])) for m in result.measures},
        "over_queries": dict(zip(result.measures, values.mean(axis=0).tolist(), strict=True)),
        "per_language": per_language,
        "intervals": percentile_intervals(result.measures, sum(means)),
        "chance": result.chance,
        "counts": result.counts,
        **({} if result.per_pair is None else {"pairs": _mean_of_pairs(result.per_pair, result.measures)}),
    }


def _mean_of_pairs(per_pair: pa.Table, measures: Sequence[str]) -> list[dict[str, Any]]:
    """Of each pair of languages its measures, as means over the queries that have something relevant there."""
    keys = ["language", "passage_language"]
    means = per_pair.group_by(keys).aggregate([("query_id", "count"), *((measure, "mean") for measure in measures)])
    return [
        {
            **{key: row[key] for key in keys},
            "queries": row["query_id_count"],
            **{measure: row[f"{measure}_mean"] for measure in measures},
        }
        for row in means.sort_by([(key, "ascending") for key in keys]).to_pylist()
    ]


def _mean_of_rows(values_NM: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.bincount(rows, minlength=len(values_NM)) @ values_NM / len(values_NM)
