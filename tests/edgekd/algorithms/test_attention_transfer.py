import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.attention_transfer import attention_transfer_loss


def maps(channels: int, seed: int = 0) -> torch.Tensor:
    return samples(3, channels, 4, 4, seed=seed).double()


@given(st.floats(1e-3, 1e3), st.sampled_from([1.0, 2.0, 4.0]))
def test_scale_sign_and_order_of_channels_do_not_count(scale: float, power: float) -> None:
    student, teacher = maps(5), maps(7, seed=1)
    value = attention_transfer_loss(student, teacher, power=power).item()
    other = -scale * student[:, torch.tensor([2, 0, 1, 4, 3])]
    assert attention_transfer_loss(other, teacher, power=power).item() == pytest.approx(value)
    assert attention_transfer_loss(other, student, power=power).item() == pytest.approx(
        0, abs=1e-12
    )


def test_a_case_worked_out_by_hand() -> None:
    # Squares, mean over the channel: (9, 16) / sqrt(337) against (1, 0).
    student = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).reshape(1, 2, 1, 2)
    norm = math.sqrt(81 + 256)
    expected = ((9 / norm - 1) ** 2 + (16 / norm) ** 2) / 2
    assert attention_transfer_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_the_larger_map_is_averaged() -> None:
    small = maps(4)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert attention_transfer_loss(large, small).item() == pytest.approx(0, abs=1e-12)


def test_gradients_are_right_and_none_reaches_the_teacher() -> None:
    student, teacher = maps(2)[:, :, :2, :2].requires_grad_(), maps(3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: attention_transfer_loss(s, teacher.detach()), student)
    attention_transfer_loss(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_and_absent_activity_stays_finite(dtype: torch.dtype) -> None:
    student = (samples(2, 3, 4, 4) * 1e4).to(dtype).requires_grad_()
    value = attention_transfer_loss(student, torch.zeros(2, 5, 4, 4, dtype=dtype), power=8.0)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()


def test_what_is_no_map_is_refused() -> None:
    with pytest.raises(ValueError, match="maps"):
        attention_transfer_loss(samples(2, 16, 4), samples(2, 16, 4))
