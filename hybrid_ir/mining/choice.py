"""Which of the nearest passages become a group's negatives, and why none does. In: vectors and rules. Out: numbers.

Shape legend: `G` groups, `A` languages that questions rank from, `S` answers of a group, `K` passages that each
question found, `N` = A x K places of candidates, `M` negatives that are asked for, `D` dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

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
}
"""What became of a group in a language."""
_MINED, _KEPT, _NOT_ASKED, _TOO_FEW, _BELOW, _MARGIN, _EITHER = range(len(OUTCOMES))
_BYTES = 1 << 26  # of gathered candidates at a time
_FAR = 1 << 40


def choose(
    questions_GAD: np.ndarray,
    asked_GA: np.ndarray,
    answers_GSD: np.ndarray,
    found_GAK: np.ndarray,
    passages_PD: np.ndarray,
    rules: Rules,
) -> tuple[np.ndarray, np.ndarray]:
    """(G, M) the passages that were chosen, the best first, -1 where there are no more, and (G,) the place of what
    happened in `OUTCOMES`.

    `found_GAK` are the passages that each question found, -1 where none; `asked_GA` says which questions there are. A
    passage may be chosen if its best rank over all questions is one of the rules', and if none of them scores it too
    near an answer. Of those the ones with the highest scores are.
    """
    n_groups, n_asked, depth = found_GAK.shape
    row_bytes = 8 * (n_asked * depth * (passages_PD.shape[1] + n_asked) + answers_GSD[:1].size)
    step = max(1, _BYTES // row_bytes)
    parts = [
        _choose(questions_GAD[i : i + step], asked_GA[i : i + step], answers_GSD[i : i + step], found_GAK[i : i + step],
                passages_PD, rules)
        for i in range(0, n_groups, step)
    ]  # fmt: skip
    return np.concatenate([chosen for chosen, _ in parts]), np.concatenate([outcome for _, outcome in parts])


def _choose(
    questions_GAD: np.ndarray,
    asked_GA: np.ndarray,
    answers_GSD: np.ndarray,
    found_GAK: np.ndarray,
    passages_PD: np.ndarray,
    rules: Rules,
) -> tuple[np.ndarray, np.ndarray]:
    # In the order of their numbers: what several questions found stands together, and of equal scores the first wins.
    candidates_GN = np.sort(found_GAK.reshape(len(found_GAK), -1), axis=1)
    there_GN = candidates_GN >= 0
    there_GN[:, 1:] &= candidates_GN[:, 1:] != candidates_GN[:, :-1]
    # In float64, then rounded: a score does not depend on which passages it was computed beside.
    questions = questions_GAD.astype(np.float64)
    vectors_GND = passages_PD[np.maximum(candidates_GN, 0)].astype(np.float64)
    scores_GAN = (questions @ vectors_GND.transpose(0, 2, 1)).astype(np.float32).astype(np.float64)
    answers_GDS = answers_GSD.astype(np.float64).transpose(0, 2, 1)
    answer_GA = (questions @ answers_GDS).min(axis=2).astype(np.float32).astype(np.float64)
    considered_GAN = asked_GA[:, :, None] & there_GN[:, None, :]

    # All that a question ranks above what it found itself was found too, so ranks among these are those among all.
    order = np.argsort(np.where(considered_GAN, -scores_GAN, np.inf), axis=2, kind="stable")
    rank_GAN = np.empty_like(order)
    np.put_along_axis(rank_GAN, order, np.broadcast_to(np.arange(1, order.shape[2] + 1), order.shape), axis=2)
    best_rank_GN = np.where(considered_GAN, rank_GAN, _FAR).min(axis=1)
    at_ranks_GN = there_GN & (rules.first <= best_rank_GN) & (best_rank_GN <= rules.last)

    # An answer may score below 0: nearer to it is then 95 % of the way up, not a larger negative number.
    limit_GA = answer_GA - (1 - rules.below) * np.abs(answer_GA)
    below_GN = (considered_GAN & (scores_GAN >= limit_GA[:, :, None])).any(axis=1)
    margin_GN = (considered_GAN & (scores_GAN > answer_GA[:, :, None] - rules.margin)).any(axis=1)
    best_score_GN = np.where(considered_GAN, scores_GAN, -np.inf).max(axis=1)
    allowed_GN = at_ranks_GN & ~below_GN & ~margin_GN
    ranked_GN = np.argsort(np.where(allowed_GN, -best_score_GN, np.inf), axis=1, kind="stable")
    chosen_GN = np.take_along_axis(np.where(allowed_GN, candidates_GN, -1), ranked_GN, axis=1)
    chosen_GM = np.pad(chosen_GN, ((0, 0), (0, rules.negatives)), constant_values=-1)[:, : rules.negatives]

    outcome_G = np.select(
        [
            ~asked_GA.any(axis=1),
            ~at_ranks_GN.any(axis=1),
            allowed_GN.any(axis=1),
            (below_GN | ~at_ranks_GN).all(axis=1),
            (margin_GN | ~at_ranks_GN).all(axis=1),
        ],
        [_NOT_ASKED, _TOO_FEW, _MINED, _BELOW, _MARGIN],
        _EITHER,
    )
    return chosen_GM, outcome_G
