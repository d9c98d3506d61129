"""InfoNCE over the gathered batch. In: this rank's unit vectors, masks by id, a temperature. Out: its part of the loss.

Every rank's queries meet all ranks' passages. The temperature (`loss.temperature`) is applied in `contrastive_loss`
and nowhere else: it divides the cosines before the softmax. Evaluation and search rank by plain cosines, whose order it
would not change. (`batch.language_temperature` is another one: how often the plan deals a language.)

Shapes: B rows of the global batch, b of them local (a contiguous slice), L languages, D dimensions. Pure torch, no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    queries_bD: Tensor,
    passages_bD: Tensor,
    negatives_bD: Tensor | None = None,
    *,
    start: int,
    sizes: Sequence[int],
    false_positives_bB: Tensor,
    false_positives_of_passages_bB: Tensor | None = None,
    false_negatives_bB: Tensor | None = None,
    temperature: float,
    symmetric: bool = False,
    negatives: str = "in_batch",
    dimensions: Sequence[int] = (),
) -> Tensor:
    """This rank's part of the mean InfoNCE loss of the global batch; embeddings are unit length.

    Rank r holds `sizes[r]` rows, ours start at `start`. `false_positives_bB[i, j]`: passage j answers our query i too
    (i != j); `false_positives_of_passages_bB[i, j]`: our passage i answers query j too (for `symmetric`);
    `false_negatives_bB[i, j]`: hard negative j answers our query i. They are left out of i's denominator.
    The mean over ranks of the returned values, which is what DDP makes of their gradients, is the mean over all B rows
    of

        -log( exp(q_i.p_i / t) / sum_j exp(q_i.c_j / t) )

    where t is `temperature`. The candidates c are p_i and, by `negatives`, all other positives (in_batch), those and
    all hard negatives (in_batch_and_hard), or the hard negatives alone (triplet: Eq. 1 of arXiv 2408.10536, which
    prints t = 1).
    `symmetric` averages it with the same loss of each passage against all queries.

    `dimensions`: the loss is the mean of that of whole vectors and, for each d of these, of their first d values
    brought to unit length (Matryoshka representation learning, arXiv 2205.13147, Eq. 1 with equal weights).
    """
    b, B = len(queries_bD), sum(sizes)
    if len(sizes) == 0 or min(sizes) < 1:
        raise ValueError(f"every rank needs at least one row, got slices of {list(sizes)}; raise batch.size")
    ours = torch.arange(start, start + b, device=queries_bD.device)
    # Only rows of one and the same step are gathered: another batch's would put other languages among the negatives.
    passages_BD = gather_rows(passages_bD, sizes)
    queries_BD = gather_rows(queries_bD, sizes) if symmetric else None
    negatives_BD = gather_rows(negatives_bD, sizes) if negatives != "in_batch" and negatives_bD is not None else None

    def loss_of(dimension: int | None) -> Tensor:
        def logits_of(local_bD: Tensor, gathered_BD: Tensor | None, left_out_bB: Tensor | None) -> Tensor:
            assert gathered_BD is not None
            assert left_out_bB is not None
            # The temperature: a low one sharpens the softmax, so that the hardest negatives get most of the gradient.
            cosines_bB = _first(local_bD, dimension) @ _first(gathered_BD, dimension).T
            return (cosines_bB / temperature).masked_fill(left_out_bB, -torch.inf)

        positives_bB = logits_of(queries_bD, passages_BD, false_positives_bB)
        if negatives == "in_batch":
            logits, target_b = positives_bB, ours
        else:
            hard_bB = logits_of(queries_bD, negatives_BD, false_negatives_bB)
            if negatives == "triplet":
                own_b1 = positives_bB.gather(1, ours[:, None])
                logits, target_b = torch.cat([own_b1, hard_bB], dim=1), torch.zeros_like(ours)
            else:
                logits, target_b = torch.cat([positives_bB, hard_bB], dim=1), ours
        total = F.cross_entropy(logits, target_b, reduction="sum")
        if not symmetric:
            return total
        queries_of_passages_bB = logits_of(passages_bD, queries_BD, false_positives_of_passages_bB)
        return (total + F.cross_entropy(queries_of_passages_bB, ours, reduction="sum")) / 2

    total = torch.stack([loss_of(dimension) for dimension in (None, *dimensions)]).mean()
    # DDP divides the sum of the ranks' gradients by their number. Slices may differ by a row, so this is not 1 / b.
    return total * (len(sizes) / B)


def _first(vectors_ND: Tensor, dimension: int | None) -> Tensor:
    """Their first values, of unit length; None = the vectors as they are."""
    return vectors_ND if dimension is None else F.normalize(vectors_ND[:, :dimension], dim=1)


def false_positive_mask(
    passage_ids_BL: Tensor, language_B: Tensor, rows: slice, same_question_P2: Tensor | None = None
) -> Tensor:
    """(b, B) bool for the queries of `rows`: passage j (in language_B[j]) answers query i as well, i != j: it is also
    the passage of group i in that language, or of a group that asks the same question.

    `passage_ids_BL[i, l]` is the id of group i's passage in language l, -1 where it has none: a passage that i's query
    could have been paired with, had the batch been in that language, is no negative for it. `same_question_P2` is what
    `same_questions` returns; None = all questions differ.
    """
    mask_bB = _of_equal_questions(
        lambda places: _has_bB(passage_ids_BL[places], _own_B(passage_ids_BL, language_B), language_B),
        rows,
        same_question_P2,
    )
    mask_bB.diagonal(rows.start).fill_(False)
    return mask_bB


def false_positive_mask_of_passages(
    passage_ids_BL: Tensor, language_B: Tensor, rows: slice, same_question_P2: Tensor | None = None
) -> Tensor:
    """(b, B) bool for the passages of `rows`: passage i answers query j as well, i != j. The rows are columns of
    `false_positive_mask` of the whole batch."""
    own_b, language_b = _own_B(passage_ids_BL, language_B)[rows], language_B[rows]
    mask_bB = torch.empty(len(own_b), len(language_B), dtype=torch.bool, device=own_b.device)
    for start in range(0, len(own_b), _BLOCK):
        part = slice(start, start + _BLOCK)
        mask_bB[part] = (passage_ids_BL[:, language_b[part]] == own_b[part]).T & (own_b[part] >= 0)[:, None]
    if same_question_P2 is not None and len(same_question_P2):
        queries, place = same_question_P2[:, 0].unique(return_inverse=True)
        counted = mask_bB[:, queries].int()
        for part, other in zip(place.split(_BLOCK), same_question_P2[:, 1].split(_BLOCK), strict=True):
            counted.index_add_(1, part, mask_bB[:, other].int())
        mask_bB[:, queries] = counted > 0
    mask_bB.diagonal(rows.start).fill_(False)
    return mask_bB


def false_negative_mask(
    passage_ids_BL: Tensor,
    negative_ids_B: Tensor,
    language_B: Tensor,
    rows: slice,
    same_question_P2: Tensor | None = None,
) -> Tensor:
    """(b, B) bool for the queries of `rows`: hard negative j (of that id and language) is the passage of group i, or of
    a group that asks the same question."""
    return _of_equal_questions(
        lambda places: _has_bB(passage_ids_BL[places], negative_ids_B, language_B),
        rows,
        same_question_P2,
    )


def same_questions(query_ids_BM: Tensor, language_B: Tensor) -> Tensor:
    """(P, 2): ordered pairs i != j of groups that ask the same question, in the language that either is asked in.

    `query_ids_BM[i, m]` is the id of group i's question in language m, -1 where it has none.
    """
    own_B = _own_B(query_ids_BM, language_B)
    found = []
    for start in range(0, len(own_B), _BLOCK):
        same = _has_bB(query_ids_BM[start : start + _BLOCK], own_B, language_B)
        found.append(same.nonzero() + torch.tensor([start, 0], device=same.device))
    pairs = torch.cat(found)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return torch.cat([pairs, pairs.flip(1)]).unique(dim=0)


_BLOCK = 1024  # rows of a mask that are made at a time: ids take eight times the memory of what is kept of them


def _own_B(ids_BL: Tensor, language_B: Tensor) -> Tensor:
    """The id of what each row has in its own language."""
    return ids_BL.gather(1, language_B[:, None])[:, 0]


def _has_bB(ids_bL: Tensor, wanted_B: Tensor, language_B: Tensor) -> Tensor:
    """(b, B) bool: what group i has in language_B[j] is wanted_B[j]."""
    has_bB = torch.empty(len(ids_bL), len(wanted_B), dtype=torch.bool, device=ids_bL.device)
    for start in range(0, len(ids_bL), _BLOCK):
        ids = ids_bL[start : start + _BLOCK][:, language_B]
        has_bB[start : start + _BLOCK] = (ids == wanted_B) & (ids >= 0)
    return has_bB


def _of_equal_questions(
    answers: Callable[[slice | Tensor], Tensor], rows: slice, same_question_P2: Tensor | None
) -> Tensor:
    """What `answers` says of `rows`, where what answers a question answers it in every row that asks it."""
    answers_bB = answers(rows)
    if same_question_P2 is None:
        return answers_bB
    ours = same_question_P2[(same_question_P2[:, 0] >= rows.start) & (same_question_P2[:, 0] < rows.stop)]
    if len(ours):
        queries, place = ours[:, 0].unique(return_inverse=True)
        counted = answers(queries).int()
        for part, other in zip(place.split(_BLOCK), ours[:, 1].split(_BLOCK), strict=True):
            counted.index_add_(0, part, answers(other).int())
        answers_bB[queries - rows.start] = counted > 0
    return answers_bB


def gather_rows(local_bD: Tensor, sizes: Sequence[int]) -> Tensor:
    """All ranks' rows in rank order, (B, D), with gradient to every rank's own. `sizes` are the ranks' row counts."""
    if len(sizes) == 1:
        return local_bD
    return _GatherRows.apply(local_bD, tuple(sizes))


class _GatherRows(torch.autograd.Function):
    """torch's own differentiable all_gather needs equal shapes and has no backward on gloo; slices may differ."""

    @staticmethod
    def forward(ctx, local_bD: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes = sizes
        padded = F.pad(local_bD.detach(), (0, 0, 0, max(sizes) - len(local_bD))).contiguous()
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([rows[:size] for rows, size in zip(gathered, sizes, strict=True)])

    @staticmethod
    def backward(ctx, grad_BD: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Every rank's loss depends on our rows: their gradients add up.
        total = grad_BD.clone(memory_format=torch.contiguous_format)  # autograd may hand the same tensor to others
        dist.all_reduce(total)
        start = sum(ctx.sizes[: dist.get_rank()])
        return total[start : start + ctx.sizes[dist.get_rank()]], None
