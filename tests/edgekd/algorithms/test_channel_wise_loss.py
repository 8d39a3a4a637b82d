import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples
from torch import Tensor

from edgekd.algorithms.channel_wise_loss import channel_wise_loss


def maps(seed: int = 0) -> Tensor:
    return samples(2, 3, 2, 3, seed=seed).double()


def test_a_case_worked_out_by_hand() -> None:
    # Two channels of two places: (1/4, 3/4) against (1/2, 1/2), and nothing to learn in the other.
    student = torch.zeros(1, 2, 1, 2)
    teacher = torch.tensor([[[[0.0, math.log(3)]], [[5.0, 5.0]]]])
    expected = (0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)) / 2
    found = channel_wise_loss(student, teacher, temperature=1.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    warm = channel_wise_loss(student, 4 * teacher, temperature=4.0)
    assert warm.item() == pytest.approx(16 * expected, rel=1e-5)


@given(st.floats(-50, 50), st.floats(0.5, 8))
def test_adding_a_constant_to_a_channel_changes_nothing(shift: float, temperature: float) -> None:
    shifts = torch.tensor([shift, 0.0, -2 * shift]).double()[:, None, None]
    plain = channel_wise_loss(maps(), maps(1), temperature=temperature).item()
    moved = channel_wise_loss(maps() + shifts, maps(1) - shifts, temperature=temperature).item()
    assert moved == pytest.approx(plain, rel=1e-7)
    assert channel_wise_loss(maps() + shifts, maps()).item() == pytest.approx(0, abs=1e-9)


def test_gradients_sum_to_zero_over_a_channel_and_none_reaches_the_teacher() -> None:
    student, teacher = maps().requires_grad_(), maps(1).requires_grad_()
    channel_wise_loss(student, teacher).backward()
    assert student.grad.abs().max() > 1e-3 and teacher.grad is None
    assert student.grad.sum((2, 3)).abs().max() < 1e-12
    assert torch.autograd.gradcheck(
        lambda s: channel_wise_loss(s, maps(1)), maps().requires_grad_()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_values_stay_finite(dtype: torch.dtype) -> None:
    found = channel_wise_loss((60 * maps()).to(dtype), (-60 * maps()).to(dtype), temperature=1.0)
    assert found.dtype == torch.float32 and math.isfinite(found.item())


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="map by map"):
        channel_wise_loss(maps(), maps()[:, :2])
    with pytest.raises(ValueError, match="one place"):
        channel_wise_loss(samples(2, 3, 1, 1), samples(2, 3, 1, 1))
    with pytest.raises(ValueError, match="above 0"):
        channel_wise_loss(maps(), maps(), temperature=0.0)
