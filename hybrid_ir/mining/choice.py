"""Which of the nearest passages may be a group's negatives, and why none may. In: scores and rules. Out: numbers.

Shape legend: `G` groups, `A` languages that questions rank from, `K` passages that each question found, `N` = A x K
places of candidates, `M` = `most`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from hybrid_ir.mining.rules import Rules

OUTCOMES: Mapping[str, str] = {
    "mined": "a negative was found",
    "kept": "it had one",
    "not asked": "no question that may rank",
    "too few": "no passage at these ranks",
    "below": "all too near the answer by --below",
    "margin": "all too near the answer by --margin",
    "below and margin": "all too near the answer by either",
    "reranker": "all others too near it by --reranker",
}
"""What became of a group in a language."""
MINED, _KEPT, _NOT_ASKED, _TOO_FEW, _BELOW, _MARGIN, _EITHER, RERANKER = range(len(OUTCOMES))
_FAR = 1 << 40
Score = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(g,) rows of the groups, (g, N) numbers of passages -> (g, A, N) what each question gives them, and (g, A) what it
gives the answer that scores least, both float64."""


class Found(NamedTuple):
    """What the questions of groups found in a language."""

    asked_GA: np.ndarray
    """Which questions there are."""
    found_GAK: np.ndarray
    """The passages that each found, the best first, -1 behind them."""
    score: Score
    step: int
    """How many groups to ask `score` about at once."""


def choose(found: Found, rules: Rules, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(G, most) the passages that may be negatives, the best first, -1 where there are no more, and (G,) the place of
    what happened in `OUTCOMES`.

    A passage may be chosen if its best rank over all questions is one of the rules', and if none of them scores it too
    near an answer. Of those the ones with the highest scores come first.
    """
    parts = []
    for start in range(0, len(found.found_GAK), found.step):
        rows = np.arange(start, min(start + found.step, len(found.found_GAK)))
        parts.append(_choose(rows, found.asked_GA[rows], found.found_GAK[rows], found.score, rules, most))
    return np.concatenate([chosen for chosen, _ in parts]), np.concatenate([outcome for _, outcome in parts])


def _choose(
    rows: np.ndarray, asked_GA: np.ndarray, found_GAK: np.ndarray, score: Score, rules: Rules, most: int
) -> tuple[np.ndarray, np.ndarray]:
    # In the order of their numbers: what several questions found stands together, and of equal scores the first wins.
    candidates_GN = np.sort(found_GAK.reshape(len(found_GAK), -1), axis=1)
    there_GN = candidates_GN >= 0
    there_GN[:, 1:] &= candidates_GN[:, 1:] != candidates_GN[:, :-1]
    scores_GAN, answer_GA = score(rows, np.maximum(candidates_GN, 0))
    considered_GAN = asked_GA[:, :, None] & there_GN[:, None, :]

    # All that a question ranks above what it found itself was found too, so ranks among these are those among all.
    order = np.argsort(np.where(considered_GAN, -scores_GAN, np.inf), axis=2, kind="stable")
    rank_GAN = np.empty_like(order)
    np.put_along_axis(rank_GAN, order, np.broadcast_to(np.arange(1, order.shape[2] + 1), order.shape), axis=2)
    best_rank_GN = np.where(considered_GAN, rank_GAN, _FAR).min(axis=1)
    at_ranks_GN = there_GN & (rules.first <= best_rank_GN) & (best_rank_GN <= rules.last)

    # An answer may score below 0: nearer to it is then 95 % of the way up, not a larger negative number.
    bound = 1.0 if rules.below is None else rules.below
    limit_GA = answer_GA - (1 - bound) * np.abs(answer_GA)
    below_GN = (considered_GAN & (scores_GAN >= limit_GA[:, :, None])).any(axis=1)
    margin_GN = (considered_GAN & (scores_GAN > answer_GA[:, :, None] - rules.margin)).any(axis=1)
    if rules.below is None:
        below_GN, margin_GN = np.zeros_like(there_GN), np.zeros_like(there_GN)
    best_score_GN = np.where(considered_GAN, scores_GAN, -np.inf).max(axis=1)
    allowed_GN = at_ranks_GN & ~below_GN & ~margin_GN
    ranked_GN = np.argsort(np.where(allowed_GN, -best_score_GN, np.inf), axis=1, kind="stable")
    chosen_GN = np.take_along_axis(np.where(allowed_GN, candidates_GN, -1), ranked_GN, axis=1)
    chosen_GM = np.pad(chosen_GN, ((0, 0), (0, most)), constant_values=-1)[:, :most]

    outcome_G = np.select(
        [
            ~asked_GA.any(axis=1),
            ~at_ranks_GN.any(axis=1),
            allowed_GN.any(axis=1),
            (below_GN | ~at_ranks_GN).all(axis=1),
            (margin_GN | ~at_ranks_GN).all(axis=1),
        ],
        [_NOT_ASKED, _TOO_FEW, MINED, _BELOW, _MARGIN],
        _EITHER,
    )
    return chosen_GM, outcome_G
