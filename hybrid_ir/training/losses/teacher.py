"""What a teacher's loss is: KL, MarginMSE or MSE. In: what the teacher says of a batch, the student's logits or
vectors. Out: a sum over this rank's rows.

Every rank has what the teacher says of the whole batch, so nothing of it is exchanged. Its logits are made as the
student's are, with the same candidates and masks. Shapes: as in `logits.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid_ir.batches import Batch, TeacherScores
from hybrid_ir.encoders import to_device
from hybrid_ir.training.losses.logits import Logits, Masks, logits_of
from hybrid_ir.training.losses.settings import LossSettings


@dataclass(frozen=True)
class Lesson:
    """What there is to learn of a batch. `weight` is the share of it beside InfoNCE."""

    weight: float
    kind: str
    """kl, margin_mse or mse."""
    candidates_bX: Tensor | None = None
    """kl: the teacher's logits of InfoNCE's candidates, or of `own_b1N` alone."""
    own_b1N: Tensor | None = None
    """Its logits of each row's passage, then of all hard negatives: -inf for those of other rows, and left out."""
    of_passages_bB: Tensor | None = None
    """kl with `loss.symmetric`: of each passage with all queries."""
    vectors: tuple[Tensor, Tensor] | None = None
    """mse: the teacher's (b, D) vectors of the queries and of the passages."""

    def mixed(self, contrastive: Tensor, learned: Tensor) -> Tensor:
        return (1 - self.weight) * contrastive + self.weight * learned

    def of_logits(self, student: Logits, negatives: str) -> Tensor | None:
        """kl, or margin_mse. None for mse, which is about vectors."""
        if self.kind == "mse":
            return None
        if self.candidates_bX is None:
            assert self.own_b1N is not None
            compare = divergence if self.kind == "kl" else margin_errors
            return compare(self.own_b1N, student.own_b1N())
        total = divergence(self.candidates_bX, student.candidates(negatives)[0])
        if self.of_passages_bB is None:
            return total
        assert student.of_passages_bB is not None
        return (total + divergence(self.of_passages_bB, student.of_passages_bB)) / 2

    def of_vectors(self, queries_bD: Tensor, passages_bD: Tensor) -> Tensor | None:
        """mse: the mean of a query's and a passage's squared distance to what the teacher makes of them. (Summed over
        dimensions: 2 - 2 cos for unit vectors.)"""
        if self.vectors is None:
            return None
        pairs = zip((queries_bD, passages_bD), self.vectors, strict=True)
        return sum((student - teacher).square().sum() for student, teacher in pairs) / 2  # type: ignore[return-value]


def lesson_of(batch: Batch, masks: Masks, rows: slice, like: Tensor, settings: LossSettings) -> Lesson:
    """The lesson of a rank's rows, as tensors of the type and on the device of `like`."""
    teacher, kind, weight = batch.teacher, settings.teacher, settings.teacher_weight
    assert teacher is not None
    assert kind is not None

    def tensor(values) -> Tensor:
        return to_device(values, like.device).to(like.dtype)

    own_b = torch.arange(rows.start, rows.stop, device=like.device)
    if isinstance(teacher, TeacherScores):
        temperature = settings.teacher_temperature or 1.0  # a reranker's scores are logits as they are
        hard_bN = (tensor(teacher.negatives_N) / temperature).expand(len(own_b), -1)
        own_b1N = torch.cat([tensor(teacher.passages_B)[rows, None] / temperature, hard_bN], dim=1)
        return Lesson(weight, kind, own_b1N=_only_own(own_b1N, batch, masks, own_b))
    queries_BD, passages_BD = tensor(teacher.queries_BD), tensor(teacher.passages_BD)
    if kind == "mse":
        return Lesson(weight, kind, vectors=(queries_BD[rows], passages_BD[rows]))
    temperature = settings.teacher_temperature or settings.temperature
    said = logits_of(
        queries_BD[rows],
        passages_BD,
        None if settings.negatives == "in_batch" else tensor(teacher.negatives_ND),
        masks,
        own_b,
        temperature,
        passages_bD=passages_BD[rows] if settings.symmetric else None,
        queries_BD=queries_BD if settings.symmetric else None,
    )
    if kind == "kl":
        return Lesson(weight, kind, said.candidates(settings.negatives)[0], of_passages_bB=said.of_passages_bB)
    return Lesson(weight, kind, own_b1N=_only_own(said.own_b1N(), batch, masks, own_b))


def _only_own(logits_b1N: Tensor, batch: Batch, masks: Masks, own_b: Tensor) -> Tensor:
    """Without the hard negatives of other rows, and those that answer the row's question."""
    assert batch.negative_row_N is not None
    assert masks.false_negatives_bN is not None
    others_bN = to_device(batch.negative_row_N, own_b.device) != own_b[:, None]
    left_out_b1N = torch.cat([torch.zeros_like(others_bN[:, :1]), others_bN | masks.false_negatives_bN], dim=1)
    return logits_b1N.masked_fill(left_out_b1N, -torch.inf)


def divergence(teacher_bX: Tensor, student_bX: Tensor) -> Tensor:
    """Sum over rows of KL(teacher || student), each a softmax over the candidates that the teacher has: where it says
    -inf, nothing is compared."""
    left_out_bX = teacher_bX == -torch.inf
    weights_bX = teacher_bX.softmax(dim=1)
    # 0 * -inf is NaN, so what is left out gets any finite number.
    log_bX = student_bX.masked_fill(left_out_bX, -torch.inf).log_softmax(dim=1).masked_fill(left_out_bX, 0)
    return -(weights_bX * log_bX).sum() - torch.special.entr(weights_bX).sum()


def margin_errors(teacher_b1N: Tensor, student_b1N: Tensor) -> Tensor:
    """MarginMSE (arXiv 2010.02666): sum over rows of the mean squared error, over the row's hard negatives, of how far
    the passage is ahead of them. A row whose hard negatives are all left out adds 0."""
    counts_bN = teacher_b1N[:, 1:] > -torch.inf

    def ahead_bN(logits_b1N: Tensor) -> Tensor:
        return logits_b1N[:, :1] - logits_b1N[:, 1:].masked_fill(~counts_bN, 0)

    errors_bN = (ahead_bN(student_b1N) - ahead_bN(teacher_b1N)).masked_fill(~counts_bN, 0)
    return (errors_bN.square().sum(dim=1) / counts_bN.sum(dim=1).clamp(min=1)).sum()
