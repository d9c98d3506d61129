"""InfoNCE over the gathered batch. In: this rank's unit vectors, masks by id, a temperature. Out: its part of the loss.

Every rank's queries meet all ranks' passages. The temperature (`loss.temperature`) is applied in `logits_of` and
nowhere else: it divides the cosines before the softmax. Evaluation and search rank by plain cosines, whose order it
would not change. (`batch.language_temperature` is another one: how often the plan deals a language.)

Shapes: B rows of the global batch, b of them local (a contiguous slice), N hard negatives of all rows, n of them of the
local ones, L languages, at most S passages of a group in one of them, D dimensions. Pure torch, no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from hybrid_ir.training.losses.agreement import disagreement
from hybrid_ir.training.losses.logits import Masks, logits_of
from hybrid_ir.training.losses.teacher import Lesson


def contrastive_loss(
    queries_bD: Tensor,
    passages_bD: Tensor,
    negatives_nD: Tensor | None = None,
    parallel_aD: Tensor | None = None,
    *,
    start: int,
    sizes: Sequence[int],
    negative_sizes: Sequence[int] | None = None,
    masks: Masks,
    temperature: float,
    symmetric: bool = False,
    negatives: str = "in_batch",
    dimensions: Sequence[int] = (),
    lesson: Lesson | None = None,
    alignment: float = 0.0,
    parallel_row_a: Tensor | None = None,
) -> Tensor:
    """This rank's part of the mean InfoNCE loss of the global batch; embeddings are unit length.

    Rank r holds `sizes[r]` rows, ours start at `start`. It holds `negative_sizes[r]` hard negatives of these rows; None
    = one of each. `masks.false_positives_bB[i, j]`: passage j answers our query i too (i != j);
    `false_positives_of_passages_bB[i, j]`: our passage i answers query j too (for `symmetric`);
    `false_negatives_bN[i, j]`: hard negative j answers our query i. They are left out of i's denominator.
    The mean over ranks of the returned values, which is what DDP makes of their gradients, is the mean over all B rows
    of

        -log( exp(q_i.p_i / t) / sum_j exp(q_i.c_j / t) )

    where t is `temperature`. The candidates c are p_i and, by `negatives`, all other positives (in_batch), those and
    all hard negatives (in_batch_and_hard), or the hard negatives alone (triplet: Eq. 1 of arXiv 2408.10536, which
    prints t = 1).
    `symmetric` averages it with the same loss of each passage against all queries.

    `dimensions`: the loss is the mean of that of whole vectors and, for each d of these, of their first d values
    brought to unit length (Matryoshka representation learning, arXiv 2205.13147, Eq. 1 with equal weights).

    With a `lesson` it is (1 - w) times that and w times the teacher's loss, w being `lesson.weight`. With `alignment`
    that many times the disagreement of each row's query with `parallel_aD`, the same question in another language, is
    added; `parallel_row_a` says which local rows have one. Both are of the same dimensions; mse is of whole vectors.
    """
    b, B = len(queries_bD), sum(sizes)
    if len(sizes) == 0 or min(sizes) < 1:
        raise ValueError(f"every rank needs at least one row, got slices of {list(sizes)}; raise batch.size")
    ours = torch.arange(start, start + b, device=queries_bD.device)
    # Only rows of one and the same step are gathered: another batch's would put other languages among the negatives.
    passages_BD = gather_rows(passages_bD, sizes)
    queries_BD = gather_rows(queries_bD, sizes) if symmetric else None
    negatives_ND = None
    if negatives != "in_batch" and negatives_nD is not None:
        negatives_ND = gather_rows(negatives_nD, negative_sizes or sizes)

    def losses_of(dimension: int | None) -> tuple[Tensor, Tensor]:
        """What is learned of passages, and the disagreement of languages."""
        gathered = (passages_BD, negatives_ND)
        logits = logits_of(
            queries_bD, *gathered, masks, ours, temperature, dimension, passages_bD=passages_bD, queries_BD=queries_BD
        )
        candidates_bX, target_b = logits.candidates(negatives)
        total = F.cross_entropy(candidates_bX, target_b, reduction="sum")
        if logits.of_passages_bB is not None:
            total = (total + F.cross_entropy(logits.of_passages_bB, ours, reduction="sum")) / 2
        learned = None if lesson is None else lesson.of_logits(logits, negatives)
        if lesson is not None and learned is not None:
            total = lesson.mixed(total, learned)
        if parallel_aD is None or parallel_row_a is None:
            return total, total.new_zeros(())
        of = parallel_row_a
        parallel = logits_of(parallel_aD, *gathered, masks.of(of), ours[of], temperature, dimension)
        return total, disagreement(candidates_bX[of], parallel.candidates(negatives)[0])

    totals, disagreements = zip(*(losses_of(dimension) for dimension in (None, *dimensions)), strict=True)
    total = torch.stack(totals).mean()
    learned = None if lesson is None else lesson.of_vectors(queries_bD, passages_bD)
    if lesson is not None and learned is not None:
        total = lesson.mixed(total, learned)
    if parallel_aD is not None:
        total = total + alignment * torch.stack(disagreements).mean()
    # DDP divides the sum of the ranks' gradients by their number. Slices may differ by a row, so this is not 1 / b.
    return total * (len(sizes) / B)


def false_positive_mask(
    passage_ids_BLS: Tensor, language_B: Tensor, rows: slice, same_question_P2: Tensor | None = None
) -> Tensor:
    """(b, B) bool for the queries of `rows`: passage j (in language_B[j]) answers query i as well, i != j: it is also
    a passage of group i in that language, or of a group that asks the same question.

    `passage_ids_BLS[i, l]` are the ids of group i's passages in language l, -1 where it has none or no more; in
    language_B[i] the first is the passage of row i. What i's query could have been paired with, had another of its
    passages been drawn or the batch been in that language, is no negative for it. `same_question_P2` is what
    `same_questions` returns; None = all questions differ.
    """
    mask_bB = _of_equal_questions(
        lambda places: _has_bX(passage_ids_BLS[places], _own_B(passage_ids_BLS, language_B), language_B),
        rows,
        same_question_P2,
    )
    mask_bB.diagonal(rows.start).fill_(False)
    return mask_bB


def false_positive_mask_of_passages(
    passage_ids_BLS: Tensor, language_B: Tensor, rows: slice, same_question_P2: Tensor | None = None
) -> Tensor:
    """(b, B) bool for the passages of `rows`: passage i answers query j as well, i != j. The rows are columns of
    `false_positive_mask` of the whole batch."""
    own_b, language_b = _own_B(passage_ids_BLS, language_B)[rows], language_B[rows]
    mask_bB = torch.empty(len(own_b), len(language_B), dtype=torch.bool, device=own_b.device)
    for start in range(0, len(own_b), _BLOCK):
        part = slice(start, start + _BLOCK)
        mask_bB[part] = _has_bX(passage_ids_BLS, own_b[part], language_b[part]).T
    if same_question_P2 is not None and len(same_question_P2):
        queries, place = same_question_P2[:, 0].unique(return_inverse=True)
        counted = mask_bB[:, queries].int()
        for part, other in zip(place.split(_BLOCK), same_question_P2[:, 1].split(_BLOCK), strict=True):
            counted.index_add_(1, part, mask_bB[:, other].int())
        mask_bB[:, queries] = counted > 0
    mask_bB.diagonal(rows.start).fill_(False)
    return mask_bB


def false_negative_mask(
    passage_ids_BLS: Tensor,
    negative_ids_N: Tensor,
    language_N: Tensor,
    rows: slice,
    same_question_P2: Tensor | None = None,
) -> Tensor:
    """(b, N) bool for the queries of `rows`: hard negative j (of that id and language) is a passage of group i, or of
    a group that asks the same question."""
    return _of_equal_questions(
        lambda places: _has_bX(passage_ids_BLS[places], negative_ids_N, language_N),
        rows,
        same_question_P2,
    )


def same_questions(query_ids_BM: Tensor, language_B: Tensor) -> Tensor:
    """(P, 2): ordered pairs i != j of groups that ask the same question, in the language that either is asked in.

    `query_ids_BM[i, m]` is the id of group i's question in language m, -1 where it has none.
    """
    query_ids_BM1 = query_ids_BM[:, :, None]
    own_B = _own_B(query_ids_BM1, language_B)
    found = []
    for start in range(0, len(own_B), _BLOCK):
        same = _has_bX(query_ids_BM1[start : start + _BLOCK], own_B, language_B)
        found.append(same.nonzero() + torch.tensor([start, 0], device=same.device))
    pairs = torch.cat(found)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return torch.cat([pairs, pairs.flip(1)]).unique(dim=0)


_BLOCK = 1024  # rows of a mask that are made at a time: ids take eight times the memory of what is kept of them


def _own_B(ids_BLS: Tensor, language_B: Tensor) -> Tensor:
    """The id of what each row has in its own language: the first there."""
    return ids_BLS[:, :, 0].gather(1, language_B[:, None])[:, 0]


def _has_bX(ids_bLS: Tensor, wanted_X: Tensor, language_X: Tensor) -> Tensor:
    """(b, X) bool: wanted_X[j] is among what group i has in language_X[j]."""
    has_bX = torch.zeros(len(ids_bLS), len(wanted_X), dtype=torch.bool, device=ids_bLS.device)
    for start in range(0, len(ids_bLS), _BLOCK):
        for ids_bL in ids_bLS[start : start + _BLOCK].unbind(2):  # one by one: all at once would take S times as much
            ids = ids_bL[:, language_X]
            has_bX[start : start + _BLOCK] |= (ids == wanted_X) & (ids >= 0)
    return has_bX


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
