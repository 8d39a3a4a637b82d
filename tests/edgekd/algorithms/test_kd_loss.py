import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.kd_loss import kl_loss, relative_mse_loss

temperatures = st.floats(0.5, 20)


@given(temperatures)
def test_equal_logits_cost_nothing(temperature: float) -> None:
    logits = samples(4, 7)
    assert kl_loss(logits, logits, temperature).item() == pytest.approx(0, abs=1e-5)


@given(temperatures, st.floats(-50, 50))
def test_adding_a_constant_to_the_logits_changes_nothing(temperature: float, shift: float) -> None:
    student, teacher = samples(4, 7), samples(4, 7, seed=1)
    plain = kl_loss(student, teacher, temperature)
    shifted = kl_loss(student + shift, teacher - shift, temperature)
    assert shifted.item() == pytest.approx(plain.item(), rel=1e-3, abs=1e-4)


def test_a_case_worked_out_by_hand() -> None:
    # softmax of (0, 0) is (1/2, 1/2); of (2 ln 3, 0) / 2 it is (3/4, 1/4); times T^2 = 4.
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert kl_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-6)
    twice = kl_loss(student.repeat(2, 1), teacher.repeat(2, 1), 2.0)
    assert twice.item() == pytest.approx(expected, rel=1e-6)


def test_the_gradient_does_not_shrink_with_the_temperature() -> None:
    """At high temperatures it tends to (z - v) / (N C) for centred logits (Hinton, section 2.1)."""
    teacher = samples(4, 5).double()
    teacher -= teacher.mean(1, keepdim=True)
    for temperature in (50.0, 500.0):
        student = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
        kl_loss(student, teacher, temperature).backward()
        assert student.grad is not None
        assert torch.allclose(student.grad, -teacher / 20, atol=2 / temperature / 20)


@pytest.mark.parametrize("loss", [lambda s, t: kl_loss(s, t, 2.0), relative_mse_loss])
def test_the_teacher_gets_no_gradient(loss) -> None:
    student, teacher = samples(3, 4).requires_grad_(), samples(3, 4, seed=1).requires_grad_()
    loss(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None


@given(st.floats(1e-3, 1e3))
def test_relative_error_is_zero_for_equal_and_one_for_nothing(size: float) -> None:
    teacher = samples(4, 6) * size
    assert relative_mse_loss(teacher, teacher).item() == 0
    assert relative_mse_loss(torch.zeros(4, 6), teacher).item() == pytest.approx(1, rel=1e-5)


def test_relative_error_to_a_teacher_of_zeros_is_finite() -> None:
    assert math.isfinite(relative_mse_loss(torch.zeros(2, 2), torch.zeros(2, 2)).item())
