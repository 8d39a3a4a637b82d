import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.standardized_kl import standardized_kl

factors, shifts = st.floats(1e-2, 1e2), st.floats(-50, 50)


@given(factors, shifts, factors, shifts)
def test_scale_and_shift_of_either_side_change_nothing(a: float, b: float, c: float, d: float):
    student, teacher = samples(4, 7).double(), samples(4, 7, seed=1).double()
    plain = standardized_kl(student, teacher, 2.0).item()
    changed = standardized_kl(a * student + b, c * teacher + d, 2.0).item()
    assert plain > 0.01
    assert changed == pytest.approx(plain, rel=1e-4)


@given(factors, shifts)
def test_a_scaled_and_shifted_teacher_costs_nothing(a: float, b: float) -> None:
    teacher = samples(4, 7).double()
    assert standardized_kl(a * teacher + b, teacher, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert standardized_kl(-a * teacher + b, teacher, 2.0).item() > 0.1


def test_a_case_worked_out_by_hand() -> None:
    # (1, 0, -1) has mean 0 and unbiased deviation 1, (0, 6, 3) gives (-1, 1, 0): at T = 1 the
    # probabilities are e/n, 1/n, 1/n/e with n = e + 1 + 1/e, in two orders.
    n = math.e + 1 + 1 / math.e
    p = (1 / math.e / n, math.e / n, 1 / n)  # the teacher's
    q = (math.e / n, 1 / n, 1 / math.e / n)
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    found = standardized_kl(torch.tensor([[1.0, 0, -1]]), torch.tensor([[0.0, 6, 3]]), 1.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_neither_shifts_nor_scales_a_row() -> None:
    student = samples(4, 7).double().requires_grad_()
    standardized_kl(student, samples(4, 7, seed=1).double(), 2.0).backward()
    assert student.grad is not None and student.grad.abs().max() > 1e-3
    centred = student.detach() - student.detach().mean(1, keepdim=True)
    assert student.grad.sum(1) == pytest.approx(torch.zeros(4).double(), abs=1e-9)
    assert (student.grad * centred).sum(1) == pytest.approx(torch.zeros(4).double(), abs=1e-6)


def test_two_classes_cannot_be_told_apart() -> None:
    """Why recipes refuse it: kl has a gradient here, the standardised form none."""
    teacher = torch.tensor([[3.0, 0.0]])
    gradients = []
    for loss in (kl_loss, standardized_kl):
        student = torch.tensor([[1.0, 0.0]], requires_grad=True)
        loss(student, teacher, 2.0).backward()
        gradients.append(float(student.grad.abs().max()))
    assert gradients[0] > 0.1 and gradients[1] < 1e-6


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = samples(3, 4).requires_grad_(), samples(3, 4, seed=1).requires_grad_()
    standardized_kl(student, teacher, 2.0).backward()
    assert student.grad is not None and teacher.grad is None


def test_equal_logits_have_no_deviation_and_stay_finite() -> None:
    student = torch.zeros(2, 5, requires_grad=True)
    standardized_kl(student, samples(2, 5), 2.0).backward()
    assert torch.isfinite(student.grad).all()
