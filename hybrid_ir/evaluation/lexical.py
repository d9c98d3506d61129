"""BM25: the lexical ranking that an encoder must beat to be worth its cost. In: a collection. Out: its scores.

Scores are those of the library bm25s, in Lucene's form of BM25 (Robertson and Zaragoza, "The Probabilistic Relevance
Framework: BM25 and Beyond", 2009). k1 and b are 0.9 and 0.4, the defaults of Anserini and Pyserini, with which
published BM25 baselines were mostly run. There is one index of all passages: a word's idf is that of the common pool.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import regex

from hybrid_ir.evaluation.scores import Score
from hybrid_ir.types import InputError

K1, B = 0.9, 0.4
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that put no space between words."""
_RUN = regex.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|[^\W{_UNSPACED}]+")


def has_bm25() -> bool:
    """Whether the extra `bm25` is installed."""
    return find_spec("bm25s") is not None


def require_bm25() -> None:
    """Raises InputError where bm25s is not installed."""
    if not has_bm25():
        raise InputError(
            "BM25 needs the library bm25s, which is not installed; pip install 'hybrid-ir[bm25]', or give --no-bm25"
        )


def words_of(text: str) -> list[str]:
    r"""The tokens that BM25 counts: casefolded words, and pairs of neighbouring characters where words have no spaces.

    `words_of("Tokyo 2020は東京で")` is ["tokyo", "2020", "は東", "東京", "京で"]. Letters are compared without case and
    in their compatibility form (NFKC). A word is a run of letters, digits and marks (Unicode's \w). In Chinese,
    Japanese, Thai, Lao, Khmer and Burmese a run is cut into overlapping bigrams (Nie et al., "On the Use of Words and
    N-grams for Chinese Information Retrieval", IRAL 2000); one character alone is a token. There is no stemming and
    there are no stop words, as no kept list has all languages.
    """
    return list(_tokens(unicodedata.normalize("NFKC", text).casefold()))


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


def _tokens(text: str) -> Iterator[str]:
    for found in _RUN.finditer(text):
        run = found.group()
        if found["unspaced"] is None or len(run) == 1:
            yield run
        else:
            yield from (first + second for first, second in pairwise(run))
