"""Two rankings of one query made into one. In: (passage, score) lists, best first. Out: passages in their fused order.

rrf       the sum of 1 / (60 + position) over the rankings that a passage is in (Cormack, Clarke and Buettcher,
          "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning Methods", SIGIR 2009).
weighted  weight * lexical + (1 - weight) * dense, each brought to [0, 1]: a BM25 score divided by the best one, and a
          cosine by where it lies between the last of its ranking and the best. A passage that a ranking does not have
          gets 0 of it (Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023, has
          what such bounds do).

Both depend on the two rankings alone, which are those of the whole index, so on no cut into shards.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

K = 60
WEIGHT = 0.3
"""Of the lexical ranking: with half or more, and with rrf, words that are much worse than vectors harm (measured)."""
FUSIONS = ("rrf", "weighted")
H = TypeVar("H", bound=Hashable)


class Place(NamedTuple):
    """Where a ranking has a passage."""

    position: int
    """From 1."""
    score: float


class Fused(NamedTuple, Generic[H]):
    """A passage, its fused score, and where each of the rankings has it; None = that ranking does not."""

    passage: H
    score: float
    dense: Place | None
    lexical: Place | None


def fuse(
    dense: Sequence[tuple[H, float]],
    lexical: Sequence[tuple[H, float]],
    fusion: Literal["rrf", "weighted"],
    weight: float = WEIGHT,
) -> list[Fused[H]]:
    """All passages of the two rankings, best first; of equal fused scores the smaller passage, as it compares.

    `weight`, from 0 to 1, is that of the lexical ranking in a weighted sum.
    """
    of_dense, of_lexical = (
        {passage: Place(n, score) for n, (passage, score) in enumerate(ranking, start=1)}
        for ranking in (dense, lexical)
    )
    if fusion == "rrf":
        parts = [{passage: 1 / (K + place.position) for passage, place in of.items()} for of in (of_dense, of_lexical)]
    else:
        low, high = (dense[-1][1], dense[0][1]) if dense else (0.0, 0.0)
        best = lexical[0][1] if lexical else 0.0
        parts = [
            {one: (1 - weight) * ((score - low) / (high - low) if high > low else 1.0) for one, score in dense},
            {one: weight * score / best for one, score in lexical},
        ]
    # The dense part first, whichever list a passage was met in: floats are added in one order.
    fused = [
        Fused(one, parts[0].get(one, 0.0) + parts[1].get(one, 0.0), of_dense.get(one), of_lexical.get(one))
        for one in of_dense | of_lexical
    ]
    return sorted(fused, key=lambda each: (-each.score, each.passage))  # type: ignore[operator]
