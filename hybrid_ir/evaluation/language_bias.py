"""Language bias within the first k of a ranking: do parallel queries find the same passages, and of which languages?

In: scores of the common pool, of a block of queries that has whole groups. Out: a value a query. Beside `rank_distance`
and `worst_position` in measures.py, which look at the relevant passages alone.

Shape legend: `Q` queries, `C` candidates, `L` languages, `N` parallel queries of one group, `U` passages that any of
them has among its first k.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FIRST = 10
"""How many passages of a ranking a reader looks at."""


class First(NamedTuple):
    """What stands among the first k of each query, whatever the order within ties.

    `sure_QC` are the candidates that are there in every order. Where `k - n_sure` is left, the `tied_QC`, who have the
    score at the cut, share these places.
    """

    sure_QC: np.ndarray
    tied_QC: np.ndarray


def first_of(scores_QC: np.ndarray) -> First:
    """The candidates above, and at, the cut behind the first 10."""
    k = FIRST
    if scores_QC.shape[1] <= k:
        return First(np.ones(scores_QC.shape, bool), np.zeros(scores_QC.shape, bool))
    next_Q1 = np.partition(scores_QC, -k - 1, axis=1)[:, -k - 1, None]  # the best score behind the cut
    return First(scores_QC > next_Q1, scores_QC == next_Q1)


def share_of_languages(first: First, language_C: np.ndarray, n_languages: int) -> np.ndarray:
    """(Q, L): which share of a query's first k is of each language; its expectation where the cut is tied.

    `language_C` has the number of each candidate's language. Rows sum to 1.
    """
    sure_QL, tied_QL = (_count(flags_QC, language_C, n_languages) for flags_QC in first)
    k = min(FIRST, len(language_C))
    left_Q1 = k - sure_QL.sum(axis=1, keepdims=True)
    n_tied_Q1 = tied_QL.sum(axis=1, keepdims=True)
    return (sure_QL + tied_QL * left_Q1 / np.maximum(n_tied_Q1, 1)) / k


def parallel_correlation(
    scores_QC: np.ndarray, first: First, group_Q: np.ndarray, language_Q: np.ndarray
) -> np.ndarray:
    """MRC@k: how alike a query and its translations rank what either has among its first k, -1 to 1.

    With t(a) the first k of query a, and r_a the positions by its scores within t(a) and t(b) together:

        RC(a) = mean over b in another language of Spearman(r_a, r_b),    MRC = mean over queries of RC

    (Yang, Jiang and Baldwin, "Language Bias in Information Retrieval: The Nature of the Beast and Mitigation Methods",
    MRL 2024, arXiv 2509.06195; the union of both first k is that of Jang et al., arXiv 2605.31171, Eq. 1 and 2, which
    print it times 100.) Equal scores have their mean position. Of a tie at the cut nothing is taken, so that no order
    of the candidates matters. NaN without a translation, or where no correlation is defined, as of one passage.
    """
    values_Q = np.full(len(scores_QC), np.nan)
    order = np.argsort(group_Q, kind="stable")
    for rows_N in np.split(order, np.flatnonzero(np.diff(group_Q[order])) + 1):
        other_NN = language_Q[rows_N, None] != language_Q[rows_N]
        if not other_NN.any():
            continue
        columns_U = np.flatnonzero(first.sure_QC[rows_N].any(axis=0))
        rho_NN = _spearman(scores_QC[np.ix_(rows_N, columns_U)], first.sure_QC[np.ix_(rows_N, columns_U)])
        known_NN = other_NN & ~np.isnan(rho_NN)
        n_N = known_NN.sum(axis=1)
        values_Q[rows_N[n_N > 0]] = (np.where(known_NN, rho_NN, 0).sum(axis=1)[n_N > 0]) / n_N[n_N > 0]
    return values_Q


def _spearman(scores_NU: np.ndarray, sure_NU: np.ndarray) -> np.ndarray:
    """(N, N): the correlation of each two rows over the columns that either has among its first; NaN if undefined."""
    either_NNU = (sure_NU[:, None] | sure_NU[None]).astype(np.float32)
    # How many of the columns stand below a column, with half of those that tie with it: its position, from below.
    below_NUU = (scores_NU[:, :, None] > scores_NU[:, None, :]) + np.float32(0.5) * (
        scores_NU[:, :, None] == scores_NU[:, None, :]
    )
    positions_NNU = either_NNU @ below_NUU.transpose(0, 2, 1)
    centred_NNU = (positions_NNU - either_NNU.sum(axis=2, keepdims=True) / 2).astype(np.float64) * either_NNU
    covariance_NN = (centred_NNU * centred_NNU.transpose(1, 0, 2)).sum(axis=2)
    variance_NN = np.square(centred_NNU).sum(axis=2)
    product_NN = np.sqrt(variance_NN * variance_NN.T)
    return np.divide(covariance_NN, product_NN, out=np.full(product_NN.shape, np.nan), where=product_NN > 0)


def _count(flags_QC: np.ndarray, language_C: np.ndarray, n_languages: int) -> np.ndarray:
    query, candidate = np.nonzero(flags_QC)
    n_queries = len(flags_QC)
    return np.bincount(query * n_languages + language_C[candidate], minlength=n_queries * n_languages).reshape(
        n_queries, n_languages
    )
