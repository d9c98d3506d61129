"""InfoNCE over the gathered batch. In: this rank's unit vectors, masks by id, a temperature. Out: its part of the loss.

Every rank's queries meet all ranks' passages. The temperature (`loss.temperature`) is applied in `contrastive_loss`
and nowhere else: it divides the cosines before the softmax. Evaluation and search rank by plain cosines, whose order it
would not change. (`batch.language_temperature` is another one: how often the plan deals a language.)

Shapes: B rows of the global batch, b of them local (a contiguous slice), L languages, D dimensions. Pure torch, no Ray.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    false_positives_BB: Tensor,
    false_negatives_BB: Tensor | None,
    sizes: Sequence[int],
    temperature: float,
    symmetric: bool = False,
    negatives: str = "in_batch",
) -> Tensor:
    """This rank's part of the mean InfoNCE loss of the global batch; embeddings are unit length.

    Rank r holds `sizes[r]` rows, ours start at `start`. `false_positives_BB[i, j]`: passage j answers query i too
    (i != j); `false_negatives_BB[i, j]`: hard negative j answers query i. Both are left out of i's denominator.
    The mean over ranks of the returned values, which is what DDP makes of their gradients, is the mean over all B rows
    of

        -log( exp(q_i.p_i / t) / sum_j exp(q_i.c_j / t) )

    where t is `temperature`. The candidates c are p_i and, by `negatives`, all other positives (in_batch), those and
    all hard negatives (in_batch_and_hard), or the hard negatives alone (triplet: Eq. 1 of arXiv 2408.10536, which
    prints t = 1).
    `symmetric` averages it with the same loss of each passage against all queries.
    """
    b, B = len(queries_bD), sum(sizes)
    if len(sizes) == 0 or min(sizes) < 1:
        raise ValueError(f"every rank needs at least one row, got slices of {list(sizes)}; raise batch.size")
    ours = torch.arange(start, start + b, device=queries_bD.device)

    def logits_of(local_bD: Tensor, gathered_BD: Tensor, left_out_BB: Tensor) -> Tensor:
        # The temperature: a low one sharpens the softmax, so that the hardest negatives get most of the gradient.
        return (local_bD @ gathered_BD.T / temperature).masked_fill(left_out_BB[ours], -torch.inf)

    # Only rows of one and the same step are gathered: another batch's would put other languages among the negatives.
    passages_BD = gather_rows(passages_bD, sizes)
    positives_bB = logits_of(queries_bD, passages_BD, false_positives_BB)
    if negatives == "in_batch":
        logits, target_b = positives_bB, ours
    else:
        assert negatives_bD is not None
        assert false_negatives_BB is not None
        hard_bB = logits_of(queries_bD, gather_rows(negatives_bD, sizes), false_negatives_BB)
        if negatives == "triplet":
            own_b1 = positives_bB.gather(1, ours[:, None])
            logits, target_b = torch.cat([own_b1, hard_bB], dim=1), torch.zeros_like(ours)
        else:
            logits, target_b = torch.cat([positives_bB, hard_bB], dim=1), ours
    total = F.cross_entropy(logits, target_b, reduction="sum")
    if symmetric:
        queries_of_passages_bB = logits_of(passages_bD, gather_rows(queries_bD, sizes), false_positives_BB.T)
        total = (total + F.cross_entropy(queries_of_passages_bB, ours, reduction="sum")) / 2
    # DDP divides the sum of the ranks' gradients by their number. Slices may differ by a row, so this is not 1 / b.
    return total * (len(sizes) / B)


def false_positive_mask(passage_ids_BL: Tensor, language_B: Tensor, same_question_BB: Tensor | None = None) -> Tensor:
    """(B, B) bool: passage j (in language_B[j]) answers query i as well, i != j: it is also the passage of group i in
    that language, or of a group that asks the same question.

    `passage_ids_BL[i, l]` is the id of group i's passage in language l, -1 where it has none: a passage that i's query
    could have been paired with, had the batch been in that language, is no negative for it. `same_question_BB` is what
    `same_question_mask` returns; None = all questions differ.
    """
    answers_BB = _of_equal_questions(_same_in_its_language(passage_ids_BL, language_B), same_question_BB)
    return answers_BB & ~torch.eye(len(answers_BB), dtype=torch.bool, device=answers_BB.device)


def false_negative_mask(
    passage_ids_BL: Tensor, negative_ids_B: Tensor, language_B: Tensor, same_question_BB: Tensor | None = None
) -> Tensor:
    """(B, B) bool: hard negative j (of that id and language) is the passage of group i, or of a group that asks the
    same question."""
    return _of_equal_questions(passage_ids_BL[:, language_B] == negative_ids_B, same_question_BB)


def same_question_mask(query_ids_BM: Tensor, language_B: Tensor) -> Tensor:
    """(B, B) bool: groups i and j ask the same question, in the language that either is asked in. True for i == j.

    `query_ids_BM[i, m]` is the id of group i's question in language m, -1 where it has none.
    """
    same_BB = _same_in_its_language(query_ids_BM, language_B)
    return same_BB | same_BB.T


def _same_in_its_language(ids_BL: Tensor, language_B: Tensor) -> Tensor:
    """(B, B) bool: what row j has in its own language, group i has in that language too. True for i == j."""
    ids_BB = ids_BL[:, language_B]  # [i, j] = id of what i has in j's language
    return (ids_BB == ids_BB.diagonal()) & (ids_BB >= 0)


def _of_equal_questions(answers_BB: Tensor, same_question_BB: Tensor | None) -> Tensor:
    """`answers_BB`, where what answers a question answers it in every row that asks it."""
    return answers_BB if same_question_BB is None else same_question_BB.float() @ answers_BB.float() > 0


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
