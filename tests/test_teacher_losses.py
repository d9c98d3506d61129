"""What a teacher adds to a loss, by hand. Gradients, and several ranks: test_step.py."""

from __future__ import annotations

from math import log

import pytest
import torch

from hybrid_ir.training.losses.agreement import disagreement
from hybrid_ir.training.losses.teacher import Lesson, divergence, margin_errors

NO = -torch.inf


def test_divergence_by_hand():
    # (1/4, 3/4) against (1/2, 1/2): log(1/2) / 4 + 3 log(3/2) / 4 = 0.130812; equal distributions: 0.
    teacher = torch.tensor([[0.0, log(3)], [5.0, 5.0]])
    assert float(divergence(teacher, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))) == pytest.approx(0.130812, abs=1e-6)


def test_what_the_teacher_leaves_out_is_left_out_of_the_student_too():
    student = torch.tensor([[1.0, 1.0, 7.0, NO]], requires_grad=True)
    value = divergence(torch.tensor([[0.0, log(3), NO, NO]]), student)
    assert float(value.detach()) == pytest.approx(0.130812, abs=1e-6)
    value.backward()
    # d/ds = softmax(s) - t, and nothing where nothing is compared.
    torch.testing.assert_close(student.grad, torch.tensor([[0.25, -0.25, 0.0, 0.0]]))


def test_margins_by_hand():
    # The teacher is ahead by 1 and 2, the student by 0.5 and 0: (0.25 + 4) / 2. The second row has nothing to beat.
    teacher = torch.tensor([[2.0, 1.0, NO, 0.0], [3.0, NO, NO, NO]])
    student = torch.tensor([[1.0, 0.5, 9.0, 1.0], [1.0, 4.0, NO, 2.0]], requires_grad=True)
    value = margin_errors(teacher, student)
    assert float(value.detach()) == pytest.approx(2.125)
    value.backward()
    # Errors are -0.5 and -2. The passage's gradient is their sum (2 * e / 2), a negative's the opposite of its own.
    torch.testing.assert_close(student.grad, torch.tensor([[-2.5, 0.5, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]))


def test_vectors_by_hand():
    # |(1, 0) - (0, 1)|^2 = 2 of the query, 0 of the passage: 1.
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    lesson = Lesson(1.0, "mse", vectors=(north, east))
    assert float(lesson.of_vectors(east, east)) == pytest.approx(1.0)  # type: ignore[arg-type]


def test_disagreement_by_hand():
    # (1/2, 1/2) and (1, 0), whose mean is (3/4, 1/4): half of log(2/3) / 2 + log(2) / 2, and half of log(4/3).
    one, other = torch.tensor([[0.0, 0.0, NO]]), torch.tensor([[0.0, -1000.0, NO]], requires_grad=True)
    value = disagreement(one, other)
    assert float(value.detach()) == pytest.approx(0.215762, abs=1e-6)
    value.backward()
    assert torch.isfinite(other.grad).all()  # type: ignore[arg-type]
    assert float(disagreement(other.detach(), one)) == pytest.approx(0.215762, abs=1e-6)
    assert float(disagreement(one, one)) == pytest.approx(0, abs=1e-7)
    nothing = torch.tensor([[0.0, -1000.0]])
    assert float(disagreement(nothing, nothing.flip(1))) == pytest.approx(log(2), abs=1e-6)  # the most there is
