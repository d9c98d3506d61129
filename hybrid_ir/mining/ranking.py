"""One block of groups: their questions rank the passages of a language, and what may be a negative is chosen.

In: a pool and its vectors, rules, a reranker where there is one. Out: the passages that are each group's negatives.
A block depends on nothing but the store, the corpus and the settings, and so do its negatives, whoever ranks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from hybrid_ir.mining.choice import MINED, RERANKER, choose
from hybrid_ir.mining.nearest import exact_cosines, nearest
from hybrid_ir.mining.pool import Pool
from hybrid_ir.mining.reranked import Asked, Reranking, refuse_answers
from hybrid_ir.mining.rules import Rules
from hybrid_ir.mining.scratch import LanguageScratch

SPARE = 8
"""Passages kept of each question beyond the last rank. A sum of products comes out a last bit higher or lower by what
is computed beside it: this many may change places with the last one before the exact scores are compared."""


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
    reranking: Reranking | None
    device: str
    chunk: int

    def __post_init__(self) -> None:
        self._answers: tuple[str, csr_array] | None = None

    def __call__(self, number: int) -> Ranked:
        language, places = self.blocks[number]
        pool, rules = self.pool, self.rules
        part, passages_PD = pool.languages[language], self.scratch[language].vectors("document")
        group_G = part.group_Q[places]
        answers_GP = self._answers_to(language)[pool.asks_G[group_G]]
        ranking = {"same": [language], "any": list(pool.languages)}.get(
            rules.languages, [x for x in pool.languages if x != language]
        )
        shape = (len(places), max(1, len(ranking)))
        asked_GA = np.zeros(shape, bool)
        questions_GAD = np.zeros((*shape, passages_PD.shape[1]), np.float32)
        found_GAK = np.full((*shape, rules.last + SPARE), -1)
        for a, other in enumerate(ranking):
            here, rows = questions_of(pool, other, group_G)
            if not len(here):
                continue
            asked_GA[here, a] = True
            questions_GAD[here, a] = self.scratch[other].vectors("query")[rows]
            found_GAK[here, a] = nearest(
                questions_GAD[here, a], passages_PD, answers_GP[here], found_GAK.shape[2],
                device=self.device, chunk=self.chunk,
            )  # fmt: skip
        candidates = found_GAK[0].size
        most = rules.negatives if self.reranking is None else candidates
        answer_GS = part.answers_GS(places)
        score, step = exact_cosines(questions_GAD, passages_PD[answer_GS], passages_PD, candidates)
        ranked_GN, outcome_G = choose(asked_GA, found_GAK, score, rules, most, step)
        if self.reranking is None:
            return Ranked(number, ranked_GN, outcome_G, Asked(0, 0))
        questions = _texts_of_questions(pool, ranking, group_G)
        answers = [[self._text(language, n) for n in np.unique(row).tolist()] for row in answer_GS]
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


def questions_of(pool: Pool, language: str, group_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of these groups have a question in a language, and which it is among those of the language."""
    group_Q = pool.languages[language].group_Q
    rows = np.minimum(np.searchsorted(group_Q, group_G), len(group_Q) - 1)
    here = np.flatnonzero(group_Q[rows] == group_G)
    return here, rows[here]


def _texts_of_questions(pool: Pool, ranking: Sequence[str], group_G: np.ndarray) -> list[list[str]]:
    """Of each group the questions that rank."""
    texts: list[list[str]] = [[] for _ in group_G]
    for language in ranking:
        here, _ = questions_of(pool, language, group_G)
        for g, text in zip(here.tolist(), pool.texts(group_G[here], f"q_{language}"), strict=True):
            texts[g].append(text)
    return texts
