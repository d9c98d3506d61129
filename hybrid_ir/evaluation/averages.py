"""Averages of a test collection: mono, cross and multi AP, recall and rank distance, with bootstrap intervals.

In: the queries, the candidates and their vectors. Out: an `Evaluation`, values per query and the averages over them.

Shape legend: `Q` queries, `C` candidates, `D` dimensions, `G` groups (questions), `L` languages, `P` pools: one per
language of the candidates, then `all`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hybrid_ir.evaluation.measures import ratio
from hybrid_ir.evaluation.resampling import percentile_intervals, resample
from hybrid_ir.evaluation.scores import Block, Score, dot_products, measure_blocks
from hybrid_ir.measure_names import BIAS, MEASURES, OF_LANGUAGE, PRECISIONS
from hybrid_ir.types import Candidate, InputError, Query

ALL = "all"
PER_QUERY = ("AP", "R@1", "R@10", "rank_distance")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a run scored on a collection. `summary` is plain JSON, where a mean over nothing is None.

    `per_query` has one row per (query, pool) that has something relevant: query_id, group_id, language (of the
    query), pool (a language of the candidates, or `all`), AP, R@1, R@10, rank_distance, Max@R and MRC@10
    (null but for pool `all`), n_relevant, best_position.
    """

    per_query: pa.Table
    summary: dict[str, Any]


def evaluate_collection(
    queries: Sequence[Query],
    candidates: Sequence[Candidate],
    query_vectors: np.ndarray,
    candidate_vectors: np.ndarray,
    *,
    families: Mapping[str, str] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Evaluation:
    """Rank every candidate for every query by dot product, as `evaluate_scores` does.

    The summary's `collapsed` says that the candidates have all but one vector, so that nothing else means much. Raises
    InputError for vectors that do not fit.
    """
    _check_any(queries, candidates)
    _check_vectors("query", queries, query_vectors)
    _check_vectors("candidate", candidates, candidate_vectors)
    if query_vectors.shape[1] != candidate_vectors.shape[1]:
        raise InputError(
            f"query vectors have {query_vectors.shape[1]} dimensions, candidate vectors {candidate_vectors.shape[1]}; "
            "encode both with the same checkpoint and dimension"
        )
    score = dot_products(query_vectors, candidate_vectors)
    evaluation = evaluate_scores(queries, candidates, score, families=families, seed=seed, resamples=resamples)
    evaluation.summary["collapsed"] = is_collapsed(candidate_vectors)
    return evaluation


def evaluate_scores(
    queries: Sequence[Query],
    candidates: Sequence[Candidate],
    score: Score,
    *,
    families: Mapping[str, str] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Evaluation:
    """Rank every candidate for every query by its score, in each language's pool and in the common one.

    Averages are the paper's: `mono` over languages, `cross` over ordered pairs of languages, `multi` and
    `rank_distance` over the languages of the queries, each a mean of means over queries. Only languages that have
    both queries and candidates take part; a query without a relevant candidate in a pool is left out of that pool;
    `counts` tells both. `families` maps a language to its family; `resamples=0` gives no intervals. Raises
    InputError for nothing to rank, repeated ids, or no common language.
    """
    _check_any(queries, candidates)
    _check_unique("query", [(query.language, query.query_id) for query in queries])
    _check_unique("candidate", [(candidate.language, candidate.doc_id) for candidate in candidates])
    asked = Counter(query.language for query in queries)
    ranked = Counter(candidate.language for candidate in candidates)
    languages = sorted(asked.keys() & ranked.keys())
    if not languages:
        raise InputError(
            f"no language has both queries and candidates (queries: {', '.join(sorted(asked))}; candidates: "
            f"{', '.join(sorted(ranked))}); check the language codes of the collection"
        )
    blocks = list(measure_blocks(queries, candidates, score, languages))
    parts = [columns for block in blocks for columns in block.pools]
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    kept = rows["n_relevant"] > 0
    counts: dict[str, Any] = {
        "queries": {language: asked.pop(language) for language in languages},
        "candidates": {language: ranked.pop(language) for language in languages},
        "outside_languages": {"queries": asked.total(), "candidates": ranked.total()},
        "without_relevant": int((~kept).sum()),
        "without_parallel": int((kept & (rows["pool"] == len(languages)) & np.isnan(rows["rank_distance"])).sum()),
    }
    if not kept.any():
        raise InputError("no query has a relevant candidate; check that candidates name the group_ids of the queries")
    rows = {name: values[kept] for name, values in rows.items()}
    cells = _Cells(rows, queries, languages)
    summary = _summarize(cells, languages, families or {})
    counts["empty_pairs"] = sum(ap is None for row in summary["matrix"].values() for ap in row.values())
    # A question is drawn with all its translations, as those are not independent.
    drawn = resample(cells.averages, cells.n_groups, resamples, np.random.default_rng(seed))
    intervals = percentile_intervals((*MEASURES, *BIAS), drawn)
    summary["bias"] |= {"intervals": {name: intervals.pop(name) for name in BIAS}}
    summary["bias"] |= _first_languages(blocks, queries, counts["candidates"])
    summary |= {"intervals": intervals, "counts": counts}
    return Evaluation(_per_query_table(rows, queries, languages), summary)


def is_collapsed(vectors: np.ndarray) -> bool:
    """Whether vectors lie so close together that a thousandth of their length is all that tells them apart."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    squared_length = float(np.einsum("cd,cd->", vectors, vectors)) / len(vectors)
    return len(vectors) > 1 and bool(1 - mean @ mean / squared_length < 1e-3)


def _check_any(queries: Sequence[Query], candidates: Sequence[Candidate]) -> None:
    for kind, items in (("query", queries), ("candidate", candidates)):
        if not len(items):
            raise InputError(f"the collection has no {kind}; give at least one")


def _check_vectors(kind: str, items: Sequence[Any], vectors: np.ndarray) -> None:
    if vectors.ndim != 2 or len(vectors) != len(items):
        raise InputError(f"{kind} vectors must have one row for each of {len(items)} texts, got shape {vectors.shape}")
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise InputError(
            f"{len(broken)} {kind} vectors hold NaN or infinity, the first is row {broken[0]}; the checkpoint is "
            "damaged or the encoder overflowed: encode in float32 or bfloat16, or take an earlier checkpoint"
        )


def _check_unique(kind: str, keys: list[tuple[str, str]]) -> None:
    key, times = Counter(keys).most_common(1)[0]
    if times > 1:
        raise InputError(f"{kind} {key[1]!r} ({key[0]}) stands {times} times in the collection; keep one of them")


def _per_query_table(rows: Mapping[str, np.ndarray], queries: Sequence[Query], languages: Sequence[str]) -> pa.Table:
    query, names = pa.array(rows["query"]), pa.array([*languages, ALL])
    columns = {
        "query_id": pa.array([query.query_id for query in queries]).take(query),
        "group_id": pa.array([query.group_id for query in queries]).take(query),
        "language": names.take(pa.array(rows["language"])),
        "pool": names.take(pa.array(rows["pool"])),
    }
    for name in (*PER_QUERY, *BIAS):
        columns[name] = pa.array(rows[name], from_pandas=True)  # NaN becomes null
    columns["n_relevant"] = pa.array(rows["n_relevant"].astype(np.int64))
    columns["best_position"] = pa.array(rows["best_position"])  # an expectation where it is tied
    return pa.table(columns)


class _Cells:
    """Sums and counts of each per-query measure by group, query language and pool: all that an average needs.

    What is measured in the common pool alone has that one pool.
    """

    def __init__(self, rows: Mapping[str, np.ndarray], queries: Sequence[Query], languages: Sequence[str]) -> None:
        group_ids, group_Q = np.unique([query.group_id for query in queries], return_inverse=True)
        self.n_groups = len(group_ids)
        where = (group_Q[rows["query"]], rows["language"], rows["pool"])
        shape = (self.n_groups, len(languages), len(languages) + 1)
        self.sums_GLP = {name: np.zeros(shape) for name in PER_QUERY}
        self.counts_GLP = {name: np.zeros(shape) for name in PER_QUERY}
        for name in PER_QUERY:
            np.add.at(self.sums_GLP[name], where, np.nan_to_num(rows[name]))
            np.add.at(self.counts_GLP[name], where, ~np.isnan(rows[name]))
        common = rows["pool"] == len(languages)
        where = (where[0][common], where[1][common], np.zeros(int(common.sum()), int))
        for name in BIAS:
            self.sums_GLP[name], self.counts_GLP[name] = np.zeros((2, *shape[:2], 1))
            np.add.at(self.sums_GLP[name], where, np.nan_to_num(rows[name][common]))
            np.add.at(self.counts_GLP[name], where, ~np.isnan(rows[name][common]))

    def mean_LP(self, name: str, weight_G: np.ndarray) -> np.ndarray:
        """Mean over queries for each query language and pool, when group g stands `weight_G[g]` times."""
        return ratio(np.tensordot(weight_G, self.sums_GLP[name], 1), np.tensordot(weight_G, self.counts_GLP[name], 1))

    def averages(self, rows: np.ndarray) -> list[float]:
        """Of `MEASURES` and `BIAS`, in their order, over the questions of `rows`, which may stand several times."""
        weight_G = np.bincount(rows, minlength=self.n_groups)
        ap, r1, r10, distance = (self.mean_LP(name, weight_G) for name in PER_QUERY)
        own = np.eye(*ap.shape, dtype=bool)
        other = ~own
        other[:, -1] = False
        values = (ap[own], ap[other], ap[:, -1], r1[own], r1[other], r10[:, -1], distance[:, -1])
        return [*map(_mean, values), *(_mean(self.mean_LP(name, weight_G)) for name in BIAS)]


def _summarize(cells: _Cells, languages: Sequence[str], families: Mapping[str, str]) -> dict[str, Any]:
    once_G = np.ones(cells.n_groups)
    ap_LP = cells.mean_LP("AP", once_G)
    ap_LL = ap_LP[:, :-1]
    cross_LL = np.where(np.eye(len(languages), dtype=bool), np.nan, ap_LL)
    as_query, as_passage = (np.array([_mean(row) for row in each]) for each in (cross_LL, cross_LL.T))
    distance = cells.mean_LP("rank_distance", once_G)[:, -1]
    values = (ap_LL.diagonal(), as_query, as_passage, ap_LP[:, -1], distance)
    by_language = dict(zip(OF_LANGUAGE, values, strict=True))
    members: dict[str, list[int]] = defaultdict(list)
    for i, language in enumerate(languages if families else ()):
        members[families.get(language, "unlisted")].append(i)
    averages = dict(zip((*MEASURES, *BIAS), map(_number, cells.averages(np.arange(cells.n_groups))), strict=True))
    bias_L = {name: cells.mean_LP(name, once_G)[:, 0] for name in BIAS}
    return {
        **{name: averages[name] for name in MEASURES},
        "bias": {
            **{name: averages[name] for name in BIAS},
            "per_language": {
                language: {name: _number(values[i]) for name, values in bias_L.items()}
                for i, language in enumerate(languages)
            },
        },
        "languages": list(languages),
        "matrix": {
            query: {passage: _number(ap_LL[i, j]) for j, passage in enumerate(languages)}
            for i, query in enumerate(languages)
        },
        "per_language": {
            language: {measure: _number(values[i]) for measure, values in by_language.items()}
            for i, language in enumerate(languages)
        },
        "per_family": {
            family: {"languages": [languages[i] for i in of_family]}
            | {measure: _number(_mean(values[of_family])) for measure, values in by_language.items()}
            for family, of_family in sorted(members.items())
        },
    }


def _first_languages(
    blocks: Sequence[Block], queries: Sequence[Query], candidates: Mapping[str, int]
) -> dict[str, Any]:
    """`first_10`: of the queries of a language, which share of the first 10 is of each language; and `expected`, the
    share of each language in the pool, which is what a ranking without any bias gives that language."""
    query = np.concatenate([block.query_Q for block in blocks])
    share_QL = np.concatenate([block.share_QL for block in blocks])
    of_language = np.array([queries[i].language for i in query])
    pool = sum(candidates.values())
    return {
        "first_10": {
            language: dict(zip(candidates, share_QL[of_language == language].mean(axis=0).tolist(), strict=True))
            for language in candidates
        },
        "expected": {language: n / pool for language, n in candidates.items()},
    }


def with_mean(measures: dict[str, float]) -> dict[str, float]:
    """Also AP_mean: the mean of mono, cross and multi mAP, of those there are."""
    precisions = [measures[name] for name in PRECISIONS if name in measures]
    return {"AP_mean": sum(precisions) / len(precisions), **measures} if precisions else measures


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
