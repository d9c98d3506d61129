"""Scores: a ranker's scores of every candidate become measures of every query, a block of queries at a time.

In: a collection and a `Score`, which vectors have (`dot_products`) and words have (`lexical.py`). Out: columns of
numbers per query and pool. Memory holds one block of scores, never the whole matrix.

Shape legend: `Q` queries of a block, `C` candidates, `D` dimensions, `U` different vectors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hybrid_ir.evaluation.measures import (
    average_precision,
    best_position,
    rank_distance,
    recall_at,
    relevant_positions,
)
from hybrid_ir.evaluation.ranking import MAX_SCORES
from hybrid_ir.types import Candidate, Query

Score = Callable[[np.ndarray], np.ndarray]
"""Row numbers of queries (Q,) -> (Q, C) float32, the score of every candidate in the order of the collection. Two
candidates that a ranker cannot tell apart must have one score to the last bit: they tie."""


def dot_products(query_vectors: np.ndarray, candidate_vectors: np.ndarray) -> Score:
    """The scores of a dense encoder. Both are (texts, D)."""
    # Equal vectors are scored once: a product of matrices gives columns at its edges other last bits.
    vectors_UD, unique_C = _unique_rows(np.asarray(candidate_vectors, np.float32))

    def score(query_Q: np.ndarray) -> np.ndarray:
        scores_QU = np.asarray(query_vectors[query_Q], np.float32) @ vectors_UD.T
        return scores_QU.take(unique_C, axis=1)

    return score


def measure_blocks(
    queries: Sequence[Query], candidates: Sequence[Candidate], score: Score, languages: Sequence[str]
) -> Iterator[dict[str, np.ndarray]]:
    """Columns of numbers per (query, pool), a block of one query language at a time to bound memory."""
    number = {language: i for i, language in enumerate(languages)}
    language_C = np.array([number.get(candidate.language, -1) for candidate in candidates])
    pools = [np.flatnonzero(language_C == i) for i in range(len(languages))] + [np.flatnonzero(language_C >= 0)]
    columns_of_group: dict[str, list[int]] = defaultdict(list)
    for column, candidate in enumerate(candidates):
        for group_id in candidate.group_ids:
            columns_of_group[group_id].append(column)
    block_size = max(1, MAX_SCORES // len(candidates))

    for language in languages:
        of_language = np.array([i for i, query in enumerate(queries) if query.language == language])
        for start in range(0, len(of_language), block_size):
            query_Q = of_language[start : start + block_size]
            scores_QC = score(query_Q)
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


def _unique_rows(vectors_CD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows, and for each row of `vectors_CD` which of them it is."""
    rows = np.ascontiguousarray(vectors_CD).view(np.dtype((np.void, vectors_CD.dtype.itemsize * vectors_CD.shape[1])))
    _, first, inverse = np.unique(rows[:, 0], return_index=True, return_inverse=True)
    return vectors_CD[first], inverse
