"""Retrieval measures of each query from a full ranking: average precision, recall, rank distance.

In: a matrix of scores and one of relevance. Out: where every relevant candidate stands, and a value a query.

Candidates of equal score have no order, so no measure depends on how they are listed: each is its expectation over all
orders of a tie, in closed form (McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently
in the Presence of Tied Scores", ECIR 2008). Without ties that is the measure itself, and trec_eval's. An encoder that
gives every text one vector scores what chance does.

Shape legend: `Q` queries, `C` candidates, `L` languages, `R` pairs of a query and a candidate relevant to it, `T` ties:
a query's candidates of one score, some of them relevant; a candidate that shares its score with none is a tie of one.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

from hybrid_ir.types import InputError


class Positions(NamedTuple):
    """Where the relevant candidates stand, one entry per relevant pair, queries in ascending order.

    Candidate r shares positions `above_R[r] + 1` to `above_R[r] + tied_R[r]` (1 is the best) with what has its score.
    """

    n_queries: int
    query_R: np.ndarray
    candidate_R: np.ndarray
    above_R: np.ndarray
    tied_R: np.ndarray

    @property
    def n_relevant_Q(self) -> np.ndarray:
        return np.bincount(self.query_R, minlength=self.n_queries)


class _Ties(NamedTuple):
    """The ties that hold something relevant, in the order of their query and then of their positions."""

    query_T: np.ndarray
    above_T: np.ndarray
    size_T: np.ndarray
    relevant_T: np.ndarray
    """How many of its candidates are relevant."""
    first_T: np.ndarray
    """Whether it is its query's first."""


def relevant_positions(scores_QC: np.ndarray, relevant_QC: np.ndarray) -> Positions:
    """Where every relevant candidate stands in the full ranking of its query.

    Raises InputError for a score that is not finite and for shapes that differ.
    """
    if scores_QC.ndim != 2 or scores_QC.shape != relevant_QC.shape or not np.isfinite(scores_QC).all():
        raise InputError(f"need finite scores and relevance of one shape, got {scores_QC.shape}, {relevant_QC.shape}")
    scores_QC = np.ascontiguousarray(scores_QC)  # a view by columns is strided, and slow to compare
    query_R, candidate_R = np.nonzero(relevant_QC)
    above_R, tied_R = np.empty((2, len(query_R)), np.int64)
    # Counting reads a row once per relevant candidate, out of cache: with a dozen of them it is faster than sorting,
    # and comparing whole (R, C) blocks would write gigabytes of booleans to memory.
    for i, (query, candidate) in enumerate(zip(query_R.tolist(), candidate_R.tolist(), strict=True)):
        row = scores_QC[query]
        score = row[candidate]
        above_R[i] = np.count_nonzero(row > score)
        tied_R[i] = np.count_nonzero(row == score)
    return Positions(len(scores_QC), query_R, candidate_R, above_R, tied_R)


def average_precision(positions: Positions) -> np.ndarray:
    """AP per query: the mean, over its relevant candidates, of the precision at their position. NaN without any."""
    ties = _ties(positions)
    size, relevant, above = ties.size_T, ties.relevant_T, ties.above_T
    # Relevant candidates before the tie: those of the query's ties so far.
    before = np.cumsum(relevant) - relevant
    before -= np.maximum.accumulate(np.where(ties.first_T, before, 0))
    # At position p of a tie, precision is (before + 1 + (p - above - 1) * others) / p if a relevant candidate is there,
    # which it is with probability relevant / size; `others` is the chance that another place of the tie is relevant.
    others = np.divide(relevant - 1, size - 1, out=np.zeros(len(size)), where=size > 1)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 1 + (above + size).max(initial=0)))])
    sums = (before + 1 - (above + 1) * others) * (harmonic[above + size] - harmonic[above]) + others * size
    alone = size == 1  # exactly what it is, not a difference of sums
    precision = np.where(alone, (before + 1) / (above + 1), relevant / size * sums)
    return ratio(np.bincount(ties.query_T, precision, positions.n_queries), positions.n_relevant_Q)


def recall_at(k: int, positions: Positions) -> np.ndarray:
    """The fraction of a query's relevant candidates that stand in its first k. NaN without any.

    Eleven relevant candidates cannot all stand among ten: R@10 over XQuAD-R's common pool ends at 10/11.
    """
    inside_R = np.clip(k - positions.above_R, 0, positions.tied_R) / positions.tied_R
    return ratio(np.bincount(positions.query_R, inside_R, positions.n_queries), positions.n_relevant_Q)


def best_position(positions: Positions) -> np.ndarray:
    """The position of each query's first relevant candidate; infinity without any."""
    ties = _ties(positions)
    best_Q = np.full(positions.n_queries, np.inf)
    first = ties.first_T
    best_Q[ties.query_T[first]] = ties.above_T[first] + (ties.size_T[first] + 1) / (ties.relevant_T[first] + 1)
    return best_Q


def rank_distance(positions: Positions, language_C: np.ndarray) -> np.ndarray:
    """Worst minus best position of a query's parallel relevant passages. NaN with fewer than two languages.

    LAReQA has one relevant sentence per language and question. Where a language has several, its best one counts: the
    distance is between languages, not between sentences of one. `language_C` holds an int per candidate.
    """
    return worst_position(positions, language_C) - best_position(positions)


def worst_position(positions: Positions, language_C: np.ndarray) -> np.ndarray:
    """Max@R: the position at which every language of a query's parallel relevant passages has come.

        Max@R(q) = max over relevant passages d of the position of d

    (Hong et al., "Improving Semantic Proximity in Information Retrieval through Cross-Lingual Alignment", ICLR 2026,
    arXiv 2604.05684, where each language has one relevant passage.) Where a language has several, its best one counts,
    as in `rank_distance`. The least it can be is the number of languages. NaN with fewer than two languages.
    """
    language_R = language_C[positions.candidate_R]
    best_QL = np.full((positions.n_queries, int(language_C.max(initial=0)) + 1), np.inf)
    np.minimum.at(best_QL, (positions.query_R, language_R), positions.above_R)
    found_QL = np.isfinite(best_QL)
    worst_Q = np.where(found_QL, best_QL, -np.inf).max(axis=1, initial=-np.inf) + 1
    # Where the last language's best is tied, its expected position is among what is relevant in that tie.
    last_R = (positions.above_R + 1 == worst_Q[positions.query_R]) & (positions.tied_R > 1)
    last_R &= best_QL[positions.query_R, language_R] == positions.above_R
    for query in np.unique(positions.query_R[last_R]):
        here = last_R & (positions.query_R == query)
        counts = np.unique(language_R[here], return_counts=True)[1].tolist()
        worst_Q[query] += expected_last_of_firsts(counts, int(positions.tied_R[here][0])) - 1
    return np.where(found_QL.sum(axis=1) >= 2, worst_Q, np.nan)


def expected_last_of_firsts(counts: list[int], size: int) -> float:
    """Of a tie of `size` candidates in random order, of which language l has `counts[l]`: the expected place (1 is the
    first) at which every language has come at least once."""
    if all(n == 1 for n in counts):
        return len(counts) * (size + 1) / (len(counts) + 1)
    # The largest of the languages' first places, by inclusion and exclusion: the smallest of n places is at
    # (size + 1) / (n + 1).
    total = 0.0
    for several in range(1, len(counts) + 1):
        firsts = sum((size + 1) / (sum(chosen) + 1) for chosen in combinations(counts, several))
        total += firsts if several % 2 else -firsts
    return total


def _ties(positions: Positions) -> _Ties:
    order = np.lexsort((positions.above_R, positions.query_R))
    query, above = positions.query_R[order], positions.above_R[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (query[1:] != query[:-1]) | (above[1:] != above[:-1])
    starts = np.flatnonzero(begins)
    query_T = query[starts]
    first_T = np.ones(len(starts), dtype=bool)
    first_T[1:] = query_T[1:] != query_T[:-1]
    relevant_T = np.diff(np.append(starts, len(order)))
    return _Ties(query_T, above[starts], positions.tied_R[order][starts], relevant_T, first_T)


def ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The quotient, and NaN where there is nothing to count."""
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts > 0)
