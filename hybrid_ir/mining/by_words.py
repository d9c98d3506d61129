"""BM25 in place of an encoder: the passages of a language that share most words with a question in it.

In: a pool, its passages on disk. Out: postings beside them; what each question of a block finds. Of two languages few
words are the same, so a question finds passages of its own alone. idf is that of the passages of the language.

Memory: 13 bytes of each different word of each passage while a language's postings are made, and then 8 of each
passage, for one question at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from hybrid_ir.lexical import (
    Postings,
    Statistics,
    best_rows,
    count_terms,
    make_postings,
    open_postings,
    score_passages,
    write_postings,
)
from hybrid_ir.mining.choice import Found
from hybrid_ir.mining.pool import Pool
from hybrid_ir.mining.scratch import LanguageScratch


@dataclass
class CountWords:
    """A stage: the number of a language in, how many passages it has out. Their postings are on disk then."""

    scratch: Mapping[str, LanguageScratch]

    def __call__(self, number: int) -> int:
        part = list(self.scratch.values())[number]
        count = len(part.entry_P)
        folder = part.path.with_suffix(".postings")
        folder.mkdir(exist_ok=True)  # by an actor that died over it: what it left is written again
        write_postings(folder, make_postings(part.passage(n).text for n in range(count)))
        return count


@dataclass
class ByWords:
    """Finds passages by BM25. Of those that share no word with the question none is found."""

    scratch: Mapping[str, LanguageScratch]

    def __post_init__(self) -> None:
        self._opened: tuple[str, Postings, Statistics] | None = None

    def find(
        self,
        pool: Pool,
        language: str,
        ranking: Sequence[str],
        places: np.ndarray,
        answers_GP: csr_array,
        depth: int,
    ) -> Found:
        """What the questions at these places of a language find among its passages. `ranking` is that language."""
        assert list(ranking) == [language]
        part = pool.languages[language]
        postings, statistics = self._of(language)
        found_GAK = np.full((len(places), 1, depth), -1)
        score_GAK = np.zeros(found_GAK.shape)
        answer_GA = np.zeros((len(places), 1))
        answer_GS = part.answers_GS(places)
        for g, text in enumerate(pool.texts(part.group_Q[places], f"q_{language}")):
            scores = score_passages(postings, statistics.query(text))
            answer_GA[g] = scores[answer_GS[g]].min()
            scores[answers_GP[[g]].indices] = 0
            rows = best_rows(scores, depth)
            found_GAK[g, 0, : len(rows)], score_GAK[g, 0, : len(rows)] = rows, scores[rows]

        def score(rows: np.ndarray, candidates_GN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            # The candidates are what was found, in the order of their numbers.
            order = np.argsort(found_GAK[rows, 0], axis=1, kind="stable")
            return np.take_along_axis(score_GAK[rows, 0], order, axis=1)[:, None], answer_GA[rows]

        return Found(np.ones((len(places), 1), bool), found_GAK, score, len(places))

    def _of(self, language: str) -> tuple[Postings, Statistics]:
        if self._opened is None or self._opened[0] != language:
            postings = open_postings(self.scratch[language].path.with_suffix(".postings"))
            self._opened = language, postings, count_terms([(postings, None)])
        return self._opened[1:]
