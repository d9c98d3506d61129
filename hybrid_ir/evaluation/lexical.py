"""BM25: the lexical ranking that an encoder must beat to be worth its cost. In: a collection. Out: its scores.

Scores are those of the library bm25s, in Lucene's form of BM25 (Robertson and Zaragoza, "The Probabilistic Relevance
Framework: BM25 and Beyond", 2009). k1 and b are 0.9 and 0.4, the defaults of Anserini and Pyserini, with which
published BM25 baselines were mostly run. There is one index of all passages: a word's idf is that of the common pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from hybrid_ir.evaluation.scores import Score
from hybrid_ir.types import InputError
from hybrid_ir.words import words_of

K1, B = 0.9, 0.4


def has_bm25() -> bool:
    """Whether the extra `bm25` is installed."""
    return find_spec("bm25s") is not None


def require_bm25() -> None:
    """Raises InputError where bm25s is not installed."""
    if not has_bm25():
        raise InputError(
            "BM25 needs the library bm25s, which is not installed; pip install 'hybrid-ir[bm25]', or give --no-bm25"
        )


def bm25_scores(queries: Sequence[str], candidates: Sequence[str]) -> Score:
    """The BM25 score of every candidate for a query, by the query's row number.

    A query with no word in common with any candidate scores 0 everywhere, which is one tie. Raises InputError where
    bm25s is not installed, or no candidate has a word.
    """
    require_bm25()
    import bm25s

    vocabulary: dict[str, int] = {}
    ids = [[vocabulary.setdefault(word, len(vocabulary)) for word in words_of(text)] for text in candidates]
    if not vocabulary:
        raise InputError(f"none of {len(candidates)} candidates has a word that BM25 could count")
    ranker = bm25s.BM25(k1=K1, b=B)
    ranker.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    asked = [[vocabulary[word] for word in words_of(text) if word in vocabulary] for text in queries]

    def score(query_Q: np.ndarray) -> np.ndarray:
        scores_QC = np.zeros((len(query_Q), len(candidates)), np.float32)
        for row, query in zip(scores_QC, query_Q, strict=True):
            if asked[query]:
                row[:] = ranker.get_scores_from_ids(asked[query])
        return scores_QC

    return score


def bm25_version() -> str:
    """What was run, for a record of it: the library's version and the parameters."""
    return f"bm25s {version('bm25s')}, k1 {K1}, b {B}"
