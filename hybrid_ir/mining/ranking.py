"""One block of groups: their questions rank the passages of a language, and what may be a negative is chosen.

In: a pool, what finds passages in it, rules, a reranker where there is one. Out: passages that are negatives.
A block depends on nothing but the store, the corpus and the settings, and so do its negatives, whoever ranks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy.sparse import csr_array

from hybrid_ir.mining.choice import MINED, RERANKER, Found, choose
from hybrid_ir.mining.pool import Pool
from hybrid_ir.mining.reranked import Asked, Reranking, refuse_answers
from hybrid_ir.mining.rules import Rules
from hybrid_ir.mining.scratch import LanguageScratch


class Finder(Protocol):
    """An encoder's vectors, or words."""

    def find(
        self,
        pool: Pool,
        language: str,
        ranking: Sequence[str],
        places: np.ndarray,
        answers_GP: csr_array,
        depth: int,
    ) -> Found: ...


class Block(NamedTuple):
    """Groups whose negatives in a language are looked for together: their places among those that have it."""

    language: str
    places: np.ndarray


class Ranked(NamedTuple):
    """What became of a block."""

    number: int
    negative_QM: np.ndarray
    """The passages that are each group's negatives, -1 behind them."""
    outcome_Q: np.ndarray
    """The place of what became of it in `OUTCOMES`."""
    asked: Asked


@dataclass
class RankBlock:
    """A stage: the number of a block in, what became of it out."""

    pool: Pool
    scratch: Mapping[str, LanguageScratch]
    blocks: Sequence[Block]
    rules: Rules
    finder: Finder
    reranking: Reranking | None

    def __post_init__(self) -> None:
        self._answers: tuple[str, csr_array] | None = None

    def __call__(self, number: int) -> Ranked:
        language, places = self.blocks[number]
        pool, rules = self.pool, self.rules
        part = pool.languages[language]
        group_G = part.group_Q[places]
        answers_GP = self._answers_to(language)[pool.asks_G[group_G]]
        ranking = {"same": [language], "any": list(pool.languages)}.get(
            rules.languages, [x for x in pool.languages if x != language]
        )
        found = self.finder.find(pool, language, ranking, places, answers_GP, rules.last)
        most = rules.negatives if self.reranking is None else found.found_GAK[0].size
        ranked_GN, outcome_G = choose(found, rules, most)
        if self.reranking is None:
            return Ranked(number, ranked_GN, outcome_G, Asked(0, 0))
        questions = _texts_of_questions(pool, ranking, group_G)
        answers = [[self._text(language, n) for n in np.unique(row).tolist()] for row in part.answers_GS(places)]
        negative_GM, asked = refuse_answers(
            ranked_GN, rules.negatives, questions, answers, lambda n: self._text(language, n), self.reranking
        )
        outcome_G[(outcome_G == MINED) & (negative_GM[:, 0] < 0)] = RERANKER
        return Ranked(number, negative_GM, outcome_G, asked)

    def _text(self, language: str, number: int) -> str:
        return self.scratch[language].passage(number).text

    def _answers_to(self, language: str) -> csr_array:
        if self._answers is None or self._answers[0] != language:
            self._answers = language, self.pool.answers_to(language)
        return self._answers[1]


def _texts_of_questions(pool: Pool, ranking: Sequence[str], group_G: np.ndarray) -> list[list[str]]:
    """Of each group the questions that rank."""
    texts: list[list[str]] = [[] for _ in group_G]
    for language in ranking:
        here, _ = pool.questions_of(language, group_G)
        for g, text in zip(here.tolist(), pool.texts(group_G[here], f"q_{language}"), strict=True):
            texts[g].append(text)
    return texts
