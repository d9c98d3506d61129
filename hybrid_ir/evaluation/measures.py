"""Retrieval measures over full rankings: mono, cross and multi AP, recall, rank distance, with intervals and a test.

In: score matrices, or the queries, candidates and vectors of a test collection. Out: values per query and averages.

Shape legend: `Q` queries, `C` candidates, `D` dimensions, `R` pairs of a query and a candidate relevant to it,
`G` groups (questions), `L` languages, `P` pools: one per language of the candidates, then `all`.

Position 1 is the best. Equal scores keep the order of the candidates, so a ranking has one answer; trec_eval breaks
ties by descending doc_id instead, so the two agree only where no relevant candidate is tied.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from hybrid_ir.measure_names import MEASURES
from hybrid_ir.types import Candidate, InputError, Query

ALL = "all"
PER_QUERY = ("AP", "R@1", "R@10", "rank_distance")
MAX_SCORES = 1 << 24  # scores held at once: 64 MiB of float32


class Positions(NamedTuple):
    """Where the relevant candidates stand, one entry per relevant pair, queries in ascending order."""

    n_queries: int
    query_R: np.ndarray
    candidate_R: np.ndarray
    position_R: np.ndarray

    @property
    def n_relevant_Q(self) -> np.ndarray:
        return np.bincount(self.query_R, minlength=self.n_queries)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a run scored on a collection. `summary` is plain JSON, where a mean over nothing is None.

    `per_query` has one row per (query, pool) that has something relevant: query_id, group_id, language (of the
    query), pool (a language of the candidates, or `all`), AP, R@1, R@10, rank_distance (null but for pool `all`),
    n_relevant, best_position.
    """

    per_query: pa.Table
    summary: dict[str, Any]


def relevant_positions(scores_QC: np.ndarray, relevant_QC: np.ndarray) -> Positions:
    """The 1-based position of every relevant candidate in the full ranking of its query.

    Raises InputError for a score that is not finite and for shapes that differ.
    """
    if scores_QC.ndim != 2 or scores_QC.shape != relevant_QC.shape or not np.isfinite(scores_QC).all():
        raise InputError(f"need finite scores and relevance of one shape, got {scores_QC.shape}, {relevant_QC.shape}")
    scores_QC = np.ascontiguousarray(scores_QC)  # a view by columns is strided, and slow to compare
    query_R, candidate_R = np.nonzero(relevant_QC)
    position_R = np.empty(len(query_R), np.int64)
    # Counting reads a row once per relevant candidate, out of cache: with a dozen of them it is faster than sorting,
    # and comparing whole (R, C) blocks would write gigabytes of booleans to memory.
    for i, (query, candidate) in enumerate(zip(query_R.tolist(), candidate_R.tolist(), strict=True)):
        row = scores_QC[query]
        score = row[candidate]
        position_R[i] = 1 + np.count_nonzero(row > score) + np.count_nonzero(row[:candidate] == score)
    return Positions(len(scores_QC), query_R, candidate_R, position_R)


def average_precision(positions: Positions) -> np.ndarray:
    """AP per query: the mean, over its relevant candidates, of the precision at their position. NaN without any."""
    order = np.lexsort((positions.position_R, positions.query_R))
    n_relevant_Q = positions.n_relevant_Q
    first_Q = np.cumsum(n_relevant_Q) - n_relevant_Q
    # After sorting, the k-th entry of a query is its k-th best relevant candidate: precision there is k / position.
    kth_R = 1 + np.arange(len(order)) - np.repeat(first_Q, n_relevant_Q)
    precision_R = kth_R / positions.position_R[order]
    return _per_query_mean(positions, precision_R)  # sorting moved entries only within their query


def recall_at(k: int, positions: Positions) -> np.ndarray:
    """The fraction of a query's relevant candidates that stand in its first k. NaN without any.

    Eleven relevant candidates cannot all stand among ten: R@10 over XQuAD-R's common pool ends at 10/11.
    """
    return _per_query_mean(positions, (positions.position_R <= k).astype(float))


def _per_query_mean(positions: Positions, values_R: np.ndarray) -> np.ndarray:
    return _ratio(np.bincount(positions.query_R, values_R, positions.n_queries), positions.n_relevant_Q)


def best_position(positions: Positions) -> np.ndarray:
    """The position of each query's first relevant candidate; infinity without any."""
    best_Q = np.full(positions.n_queries, np.inf)
    np.minimum.at(best_Q, positions.query_R, positions.position_R)
    return best_Q


def rank_distance(positions: Positions, language_C: np.ndarray) -> np.ndarray:
    """Worst minus best position of a query's parallel relevant passages. NaN with fewer than two languages.

    LAReQA has one relevant sentence per language and question. Where a language has several, its best one counts: the
    distance is between languages, not between sentences of one. `language_C` holds an int per candidate.
    """
    best_QL = np.full((positions.n_queries, int(language_C.max(initial=0)) + 1), np.inf)
    np.minimum.at(best_QL, (positions.query_R, language_C[positions.candidate_R]), positions.position_R)
    found_QL = np.isfinite(best_QL)
    distance_Q = np.where(found_QL, best_QL, -np.inf).max(axis=1) - best_QL.min(axis=1)
    return np.where(found_QL.sum(axis=1) >= 2, distance_Q, np.nan)


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
    """Rank every candidate for every query by dot product, in each language's pool and in the common one.

    Averages are the paper's: `mono` over languages, `cross` over ordered pairs of languages, `multi` and
    `rank_distance` over the languages of the queries, each a mean of means over queries. Only languages that have
    both queries and candidates take part; a query without a relevant candidate in a pool is left out of that pool;
    `counts` tells both. `families` maps a language to its family; `resamples=0` gives no intervals. Raises
    InputError for nothing to rank, repeated ids, no common language, or vectors that do not fit.
    """
    _check_vectors("query", queries, query_vectors)
    _check_vectors("candidate", candidates, candidate_vectors)
    if query_vectors.shape[1] != candidate_vectors.shape[1]:
        raise InputError(
            f"query vectors have {query_vectors.shape[1]} dimensions, candidate vectors {candidate_vectors.shape[1]}; "
            "encode both with the same checkpoint and dimension"
        )
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
    blocks = list(_score_blocks(queries, candidates, query_vectors, candidate_vectors, languages))
    rows = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
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
    summary |= {"intervals": _bootstrap_intervals(cells, seed, resamples), "counts": counts}
    return Evaluation(_per_query_table(rows, queries, languages), summary)


def _check_vectors(kind: str, items: Sequence[Any], vectors: np.ndarray) -> None:
    if not len(items):
        raise InputError(f"the collection has no {kind}; give at least one")
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


def _score_blocks(
    queries: Sequence[Query],
    candidates: Sequence[Candidate],
    query_vectors: np.ndarray,
    candidate_vectors: np.ndarray,
    languages: Sequence[str],
) -> Iterator[dict[str, np.ndarray]]:
    """Columns of numbers per (query, pool), a block of one query language at a time to bound memory."""
    number = {language: i for i, language in enumerate(languages)}
    kept = [i for i, candidate in enumerate(candidates) if candidate.language in number]
    language_C = np.array([number[candidates[i].language] for i in kept])
    pools = [np.flatnonzero(language_C == i) for i in range(len(languages))] + [np.arange(len(kept))]
    columns_of_group: dict[str, list[int]] = defaultdict(list)
    for column, i in enumerate(kept):
        for group_id in candidates[i].group_ids:
            columns_of_group[group_id].append(column)
    vectors_DC = np.asarray(candidate_vectors, np.float32)[kept].T
    block_size = max(1, MAX_SCORES // len(kept))

    for language in languages:
        of_language = np.array([i for i, query in enumerate(queries) if query.language == language])
        for start in range(0, len(of_language), block_size):
            query_Q = of_language[start : start + block_size]
            scores_QC = np.asarray(query_vectors[query_Q], np.float32) @ vectors_DC
            relevant_QC = np.zeros(scores_QC.shape, bool)
            for row, i in enumerate(query_Q):
                relevant_QC[row, columns_of_group.get(queries[i].group_id, [])] = True
            for pool, columns in enumerate(pools):
                positions = relevant_positions(scores_QC.take(columns, axis=1), relevant_QC.take(columns, axis=1))
                yield {
                    "query": query_Q,
                    "language": np.full(len(query_Q), number[language]),
                    "pool": np.full(len(query_Q), pool),
                    "AP": average_precision(positions),
                    "R@1": recall_at(1, positions),
                    "R@10": recall_at(10, positions),
                    "rank_distance": rank_distance(positions, language_C[columns]),  # NaN in a pool of one language
                    "n_relevant": positions.n_relevant_Q,
                    "best_position": best_position(positions),
                }


def _per_query_table(rows: Mapping[str, np.ndarray], queries: Sequence[Query], languages: Sequence[str]) -> pa.Table:
    query, names = pa.array(rows["query"]), pa.array([*languages, ALL])
    columns = {
        "query_id": pa.array([query.query_id for query in queries]).take(query),
        "group_id": pa.array([query.group_id for query in queries]).take(query),
        "language": names.take(pa.array(rows["language"])),
        "pool": names.take(pa.array(rows["pool"])),
    }
    for name in PER_QUERY:
        columns[name] = pa.array(rows[name], from_pandas=True)  # NaN becomes null
    return pa.table(columns | {name: rows[name].astype(np.int64) for name in ("n_relevant", "best_position")})


class _Cells:
    """Sums and counts of each per-query measure by group, query language and pool: all that an average needs."""

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

    def mean_LP(self, name: str, weight_G: np.ndarray) -> np.ndarray:
        """Mean over queries for each query language and pool, when group g stands `weight_G[g]` times."""
        return _ratio(np.tensordot(weight_G, self.sums_GLP[name], 1), np.tensordot(weight_G, self.counts_GLP[name], 1))

    def averages(self, weight_G: np.ndarray) -> dict[str, float]:
        ap, r1, r10, distance = (self.mean_LP(name, weight_G) for name in PER_QUERY)
        own = np.eye(*ap.shape, dtype=bool)
        other = ~own
        other[:, -1] = False
        values = (ap[own], ap[other], ap[:, -1], r1[own], r1[other], r10[:, -1], distance[:, -1])
        return {measure: _mean(cells) for measure, cells in zip(MEASURES, values, strict=True)}


def _summarize(cells: _Cells, languages: Sequence[str], families: Mapping[str, str]) -> dict[str, Any]:
    once_G = np.ones(cells.n_groups)
    ap_LP = cells.mean_LP("AP", once_G)
    ap_LL = ap_LP[:, :-1]
    cross_LL = np.where(np.eye(len(languages), dtype=bool), np.nan, ap_LL)
    by_language = {
        "AP_mono": ap_LL.diagonal(),
        "AP_cross_as_query": np.array([_mean(row) for row in cross_LL]),
        "AP_cross_as_passage": np.array([_mean(column) for column in cross_LL.T]),
        "AP_multi": ap_LP[:, -1],
        "rank_distance": cells.mean_LP("rank_distance", once_G)[:, -1],
    }
    members: dict[str, list[int]] = defaultdict(list)
    for i, language in enumerate(languages if families else ()):
        members[families.get(language, "unlisted")].append(i)
    return {
        **{measure: _number(value) for measure, value in cells.averages(once_G).items()},
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


def _bootstrap_intervals(cells: _Cells, seed: int, resamples: int) -> dict[str, list[float | None]]:
    """95% percentile intervals. A question is drawn with all its translations, as those are not independent."""
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {measure: [] for measure in MEASURES}
    for _ in range(resamples):
        times_G = np.bincount(generator.integers(cells.n_groups, size=cells.n_groups), minlength=cells.n_groups)
        for measure, value in cells.averages(times_G).items():
            if not math.isnan(value):
                drawn[measure].append(value)
    return {m: np.quantile(drawn[m], [0.025, 0.975]).tolist() if drawn[m] else [None, None] for m in MEASURES}


def with_mean(measures: dict[str, float]) -> dict[str, float]:
    """Also AP_mean: the mean of mono, cross and multi mAP, of those there are."""
    precisions = [measures[name] for name in ("AP_mono", "AP_cross", "AP_multi") if name in measures]
    return {"AP_mean": sum(precisions) / len(precisions), **measures} if precisions else measures


def paired_randomization_test(a: np.ndarray, b: np.ndarray, seed: int = 0, rounds: int = 10_000) -> float:
    """Two-sided p-value of the difference in means of two runs' aligned values, by random swaps of each pair.

    Values must be independent: average the translations of a question first. The least it can give is 1 / (rounds + 1).
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.ndim != 1 or a.shape != b.shape or not len(a) or not np.isfinite(a - b).all() or rounds < 1:
        raise InputError(f"need two aligned lists of finite values and rounds >= 1, got {a.shape}, {b.shape}, {rounds}")
    difference = a - b
    observed = abs(difference.sum()) * (1 - 1e-12)  # sums in another order may differ in the last bit
    generator = np.random.default_rng(seed)
    as_large = 0
    for _ in range(rounds):
        signs = generator.integers(0, 2, len(difference), dtype=np.int8) * 2.0 - 1.0
        as_large += abs(signs @ difference) >= observed
    return (1 + int(as_large)) / (1 + rounds)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts > 0)


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
