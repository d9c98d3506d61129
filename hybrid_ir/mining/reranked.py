"""Which of the passages that may be negatives a reranker takes for answers. In: texts, rules. Out: the negatives.

A reranker reads a question and a passage together, and is too slow for all that may be negatives. So it is asked about
the best of each group first, and about others where it refused these: what comes out is what asking about all gives.

Shape legend: `G` groups, `N` passages that may be negatives of a group, `M` negatives that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hybrid_ir.mining.rules import RerankerRule
from hybrid_ir.types import InputError

Scores = Callable[[Sequence[tuple[str, str]]], np.ndarray]
"""(question, passage) pairs -> what the reranker gives each, in their order."""
PAIRS = 1024  # scored together


class Reranking(NamedTuple):
    """A reranker, and what it refuses."""

    scores: Scores
    rule: RerankerRule
    made: dict[str, Any]
    """What the manifest says of it."""


class Asked(NamedTuple):
    """How many pairs were scored, and how many passages were refused."""

    pairs: int
    refused: int


def refuse_answers(
    ranked_GN: np.ndarray,
    most: int,
    questions: Sequence[Sequence[str]],
    answers: Sequence[Sequence[str]],
    text_of: Callable[[int], str],
    reranking: Reranking,
) -> tuple[np.ndarray, Asked]:
    """(G, most) the first passages of each row that the reranker does not refuse, -1 behind them.

    `ranked_GN` is -1 behind the passages of a row. A passage is refused if it scores too near an answer for one of the
    group's questions. Raises InputError for scores that are not finite.
    """
    negative_GM = np.full((len(ranked_GN), most), -1)
    rows = np.flatnonzero(ranked_GN[:, 0] >= 0).tolist()
    pairs = [(question, answer) for g in rows for question in questions[g] for answer in answers[g]]
    found, asked, refused, at = _between_0_and_1(pairs, reranking.scores), len(pairs), 0, 0
    limits: dict[int, np.ndarray] = {}
    for g in rows:
        shape = len(questions[g]), len(answers[g])
        answer_A = found[at : at + shape[0] * shape[1]].reshape(shape).min(axis=1)
        at += shape[0] * shape[1]
        limits[g] = np.stack([reranking.rule.below * answer_A, answer_A - reranking.rule.margin])
    next_G, have_G = np.zeros(len(ranked_GN), int), np.zeros(len(ranked_GN), int)
    counts_G = (ranked_GN >= 0).sum(axis=1)
    while rows:
        wanted = [
            (g, int(n)) for g in rows for n in ranked_GN[g, next_G[g] : min(next_G[g] + most - have_G[g], counts_G[g])]
        ]
        pairs = [(question, text_of(n)) for g, n in wanted for question in questions[g]]
        found, at = _between_0_and_1(pairs, reranking.scores), 0
        asked += len(pairs)
        for g, n in wanted:
            score_A = found[at : at + len(questions[g])]
            at += len(questions[g])
            next_G[g] += 1
            below, margin = limits[g]
            if (score_A >= below).any() or (score_A > margin).any():
                refused += 1
            else:
                negative_GM[g, have_G[g]] = n
                have_G[g] += 1
        rows = [g for g in rows if have_G[g] < most and next_G[g] < counts_G[g]]
    return negative_GM, Asked(asked, refused)


def _between_0_and_1(pairs: Sequence[tuple[str, str]], scores: Scores) -> np.ndarray:
    """A sigmoid of each score, float64."""
    found = [np.zeros(0)]
    for start in range(0, len(pairs), PAIRS):
        part = np.asarray(scores(pairs[start : start + PAIRS]), np.float64)
        if part.shape != (len(pairs[start : start + PAIRS]),) or not np.isfinite(part).all():
            raise InputError(
                f"scores of {len(pairs[start : start + PAIRS])} pairs are of shape {part.shape} or hold NaN or "
                "infinity; the reranker is damaged, take another"
            )
        found.append(part)
    return np.exp(-np.logaddexp(0, -np.concatenate(found)))
