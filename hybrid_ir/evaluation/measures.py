"""Retrieval measures of each query from a full ranking: average precision, recall, rank distance.

In: a matrix of scores and one of relevance. Out: the position of every relevant candidate, and a value a query.

Shape legend: `Q` queries, `C` candidates, `L` languages, `R` pairs of a query and a candidate relevant to it.

Position 1 is the best. Equal scores keep the order of the candidates, so a ranking has one answer; trec_eval breaks
ties by descending doc_id instead, so the two agree only where no relevant candidate is tied.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hybrid_ir.types import InputError


class Positions(NamedTuple):
    """Where the relevant candidates stand, one entry per relevant pair, queries in ascending order."""

    n_queries: int
    query_R: np.ndarray
    candidate_R: np.ndarray
    position_R: np.ndarray

    @property
    def n_relevant_Q(self) -> np.ndarray:
        return np.bincount(self.query_R, minlength=self.n_queries)


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
    return ratio(np.bincount(positions.query_R, values_R, positions.n_queries), positions.n_relevant_Q)


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


def ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The quotient, and NaN where there is nothing to count."""
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts > 0)
