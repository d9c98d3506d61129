"""Logits of a batch's queries and passages: a student's or a teacher's. In: unit vectors, masks. Out: cosines over a
temperature.

Shapes: B rows of the global batch, b of them local, N hard negatives of all rows, D dimensions, X candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Masks:
    """What is left out of the candidates of each local row, because it answers its question too."""

    false_positives_bB: Tensor
    false_positives_of_passages_bB: Tensor | None
    false_negatives_bN: Tensor | None

    def of(self, rows: Tensor) -> Masks:
        """Those of some of the local rows' queries."""
        negatives_bN = self.false_negatives_bN
        return Masks(self.false_positives_bB[rows], None, None if negatives_bN is None else negatives_bN[rows])


@dataclass(frozen=True)
class Logits:
    """Of local queries with all passages and all hard negatives, and of local passages with all queries; None = not
    computed. -inf where a candidate is left out."""

    positives_bB: Tensor
    hard_bN: Tensor | None
    of_passages_bB: Tensor | None
    own_b: Tensor
    """Which column is each row's own."""

    def candidates(self, negatives: str) -> tuple[Tensor, Tensor]:
        """(b, X) what each query chooses from, by `loss.negatives`, and (b,) the column of its passage."""
        if negatives == "in_batch":
            return self.positives_bB, self.own_b
        assert self.hard_bN is not None
        if negatives == "triplet":
            return self.own_b1N(), torch.zeros_like(self.own_b)
        return torch.cat([self.positives_bB, self.hard_bN], dim=1), self.own_b

    def own_b1N(self) -> Tensor:
        """Each query with its passage, then with all hard negatives."""
        assert self.hard_bN is not None
        return torch.cat([self.positives_bB.gather(1, self.own_b[:, None]), self.hard_bN], dim=1)


def logits_of(
    queries_bD: Tensor,
    passages_BD: Tensor,
    negatives_ND: Tensor | None,
    masks: Masks,
    own_b: Tensor,
    temperature: float,
    dimension: int | None = None,
    *,
    passages_bD: Tensor | None = None,
    queries_BD: Tensor | None = None,
) -> Logits:
    """With `queries_BD`, also those of the local passages with all queries. Vectors are of unit length; `dimension`:
    only their first values count, brought to unit length.

    The temperature: a low one sharpens the softmax, so that the hardest negatives get most of the gradient.
    """

    def logits(local_bD: Tensor, others_XD: Tensor, left_out_bX: Tensor) -> Tensor:
        cosines_bX = _first(local_bD, dimension) @ _first(others_XD, dimension).T
        return (cosines_bX / temperature).masked_fill(left_out_bX, -torch.inf)

    # In this order, which is that of autograd's sums.
    positives_bB = logits(queries_bD, passages_BD, masks.false_positives_bB)
    hard_bN = of_passages_bB = None
    if negatives_ND is not None:
        assert masks.false_negatives_bN is not None
        hard_bN = logits(queries_bD, negatives_ND, masks.false_negatives_bN)
    if passages_bD is not None and queries_BD is not None:
        assert masks.false_positives_of_passages_bB is not None
        of_passages_bB = logits(passages_bD, queries_BD, masks.false_positives_of_passages_bB)
    return Logits(positives_bB, hard_bN, of_passages_bB, own_b)


def _first(vectors_ND: Tensor, dimension: int | None) -> Tensor:
    """Their first values, of unit length; None = the vectors as they are."""
    return vectors_ND if dimension is None else F.normalize(vectors_ND[:, :dimension], dim=1)
