import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_checks import check_gradient, check_large_half_precision, check_shift_invariance, logits

from edgekd.algorithms.balanced_kl import balanced_kl_loss


@given(st.floats(1, 8), st.floats(1, 5))
def test_equal_logits_cost_nothing(temperature: float, stress: float) -> None:
    some = logits()
    found = balanced_kl_loss(some, some + 3, temperature=temperature, stress=stress)
    assert found.item() == pytest.approx(0, abs=1e-9)


def test_without_stress_both_sides_are_alike() -> None:
    student, teacher = logits(), logits(seed=1)
    found = balanced_kl_loss(student, teacher, stress=1.0)
    assert found.item() == pytest.approx(balanced_kl_loss(teacher, student, stress=1.0).item())


@pytest.mark.parametrize("student_is_sure", [True, False])
def test_a_case_worked_out_by_hand(student_is_sure: bool) -> None:
    # One side is (1/2, 1/2) and the other (3/4, 1/4), T = 1. Too sure a student has the forward
    # divergence, from the even teacher, twice; an unsure one has the reverse one twice.
    even, sure = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    from_even = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    from_sure = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    student, teacher = (sure, even) if student_is_sure else (even, sure)
    # In both cases what is stressed is the divergence from the even side.
    found = balanced_kl_loss(student, teacher, temperature=1.0, stress=2.0)
    assert found.item() == pytest.approx(2 * from_even + from_sure, rel=1e-5)


def test_what_every_loss_is_to_hold() -> None:
    check_shift_invariance(balanced_kl_loss)
    check_large_half_precision(balanced_kl_loss)
    check_gradient(balanced_kl_loss)
