"""Scores: a ranker's scores of every candidate become measures of every query, a block of queries at a time.

In: a collection and a `Score`, which vectors have (`dot_products`) and words have (`lexical.py`). Out: columns of
numbers per query and pool. Memory holds one block of scores, never the whole matrix.

Shape legend: `Q` queries of a block, `C` candidates, `D` dimensions, `U` different vectors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hybrid_ir.evaluation.language_bias import first_of, parallel_correlation, share_of_languages
from hybrid_ir.evaluation.measures import (
    Positions,
    average_precision,
    best_position,
    rank_distance,
    recall_at,
    relevant_positions,
    worst_position,
)
from hybrid_ir.evaluation.ranking import MAX_SCORES
from hybrid_ir.measure_names import BIAS
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


class Block(NamedTuple):
    """What a block of queries measured: columns of numbers for each pool, and whose languages come first."""

    query_Q: np.ndarray
    pools: list[dict[str, np.ndarray]]
    share_QL: np.ndarray
    """Which share of the first 10 of the common pool is of each language."""


def measure_blocks(
    queries: Sequence[Query], candidates: Sequence[Candidate], score: Score, languages: Sequence[str]
) -> Iterator[Block]:
    """Every query of `languages` against each pool, in blocks that bound memory. A block has whole groups, as parallel
    queries are compared with one another."""
    number = {language: i for i, language in enumerate(languages)}
    language_C = np.array([number.get(candidate.language, -1) for candidate in candidates])
    pools = [np.flatnonzero(language_C == i) for i in range(len(languages))]
    common = np.flatnonzero(language_C >= 0)
    columns_of_group: dict[str, list[int]] = defaultdict(list)
    for column, candidate in enumerate(candidates):
        for group_id in candidate.group_ids:
            columns_of_group[group_id].append(column)
    rows_of_group: dict[str, list[int]] = defaultdict(list)
    for row, query in enumerate(queries):
        if query.language in number:
            rows_of_group[query.group_id].append(row)

    for groups in _blocks(list(rows_of_group.values()), max(1, MAX_SCORES // len(candidates))):
        query_Q = np.concatenate(groups)
        group_Q = np.repeat(np.arange(len(groups)), [len(rows) for rows in groups])
        language_Q = np.array([number[queries[i].language] for i in query_Q])
        scores_QC = score(query_Q)
        relevant_QC = np.zeros(scores_QC.shape, bool)
        for row, i in enumerate(query_Q):
            relevant_QC[row, columns_of_group.get(queries[i].group_id, [])] = True
        measured = []
        for pool, columns in enumerate([*pools, common]):
            in_pool = scores_QC if len(columns) == len(candidates) else scores_QC.take(columns, axis=1)
            positions = relevant_positions(in_pool, relevant_QC.take(columns, axis=1))
            measured.append(_columns(positions) | {"query": query_Q, "language": language_Q})
            measured[-1]["pool"] = np.full(len(query_Q), pool)
            if columns is common:
                first = first_of(in_pool)
                measured[-1] |= {
                    "rank_distance": rank_distance(positions, language_C[columns]),
                    "Max@R": worst_position(positions, language_C[columns]),
                    "MRC@10": parallel_correlation(in_pool, first, group_Q, language_Q),
                }
                yield Block(query_Q, measured, share_of_languages(first, language_C[columns], len(languages)))


def _columns(positions: Positions) -> dict[str, np.ndarray]:
    """The measures of one pool; those between languages are NaN until they are known."""
    unknown = np.full(positions.n_queries, np.nan)
    return {
        "AP": average_precision(positions),
        "R@1": recall_at(1, positions),
        "R@10": recall_at(10, positions),
        **dict.fromkeys(("rank_distance", *BIAS), unknown),
        "n_relevant": positions.n_relevant_Q,
        "best_position": best_position(positions),
    }


def _blocks(groups: Sequence[list[int]], size: int) -> Iterator[list[list[int]]]:
    """Groups together, as many as have `size` queries; at least one."""
    block: list[list[int]] = []
    for rows in groups:
        if block and sum(map(len, block)) + len(rows) > size:
            yield block
            block = []
        block.append(rows)
    if block:
        yield block


def _unique_rows(vectors_CD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows, and for each row of `vectors_CD` which of them it is."""
    rows = np.ascontiguousarray(vectors_CD).view(np.dtype((np.void, vectors_CD.dtype.itemsize * vectors_CD.shape[1])))
    _, first, inverse = np.unique(rows[:, 0], return_index=True, return_inverse=True)
    return vectors_CD[first], inverse
