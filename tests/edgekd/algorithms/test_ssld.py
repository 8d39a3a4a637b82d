import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_checks import check_gradient, check_large_half_precision, check_shift_invariance, logits

from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.ssld import ssld_loss


@given(st.integers(0, 1000), st.floats(0.5, 5))
def test_both_sides_are_alike_and_equal_ones_cost_nothing(seed: int, temperature: float) -> None:
    one, two = logits(seed=seed), logits(seed=seed + 1)
    found = ssld_loss(one, two, temperature=temperature).item()
    assert found > 0
    assert ssld_loss(two, one, temperature=temperature).item() == pytest.approx(found)
    assert ssld_loss(one + 4, one, temperature=temperature).item() == pytest.approx(0, abs=1e-12)


def test_a_case_worked_out_by_hand() -> None:
    # (1/2, 1/2) and (3/4, 1/4): half of (1/4 log(3/2) + 1/4 log 2) = log(3) / 8.
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    assert ssld_loss(student, teacher).item() == pytest.approx(math.log(3) / 8)


def test_it_has_no_upper_bound_and_is_kl_near_equality() -> None:
    sure = torch.tensor([[20.0, 0.0]])
    assert ssld_loss(sure, -sure).item() > 10 * math.log(2)
    teacher = logits()
    student = teacher + 1e-4 * logits(seed=1)
    ratio = ssld_loss(student, teacher) / kl_loss(student, teacher, 1.0)
    assert ratio.item() == pytest.approx(1, abs=1e-3)


def test_what_every_loss_is_to_hold() -> None:
    check_shift_invariance(ssld_loss)
    check_large_half_precision(ssld_loss)
    check_gradient(ssld_loss)
