import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.generic_distillation import FeaturePredictor, generic_loss


def normalised(tokens: torch.Tensor) -> torch.Tensor:
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / (tokens.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()


def test_the_normalised_teacher_costs_nothing() -> None:
    teacher = samples(2, 3, 6).double()
    assert generic_loss(normalised(teacher), teacher).item() == pytest.approx(0, abs=1e-15)
    assert generic_loss(teacher, teacher).item() > 1e-3


def test_both_arms_worked_out_by_hand() -> None:
    # The teacher's tokens become -1 and 1. Errors of 1 and 5 with beta 2: 1/4, and 5 - 1.
    teacher = torch.tensor([[[3.0, 5.0]]])
    student = torch.tensor([[[0.0, 6.0]]])
    assert generic_loss(student, teacher).item() == pytest.approx((0.25 + 4) / 2, rel=1e-5)
    assert generic_loss(student, teacher, beta=0.5).item() == pytest.approx(
        (0.75 + 4.75) / 2, rel=1e-5
    )


@given(st.floats(0.1, 10), st.floats(-10, 10))
def test_scale_and_shift_of_the_teachers_tokens_do_not_count(a: float, b: float) -> None:
    student, teacher = samples(2, 3, 6).double(), samples(2, 3, 6, seed=1).double()
    plain = generic_loss(student, teacher).item()
    assert generic_loss(student, a * teacher + b).item() == pytest.approx(plain, rel=1e-3)


def test_the_teacher_gets_no_gradient_and_shapes_are_checked() -> None:
    student, teacher = samples(2, 3, 4).requires_grad_(), samples(2, 3, 4, seed=1).requires_grad_()
    generic_loss(student, teacher).backward()
    assert student.grad.abs().max() > 1e-3 and teacher.grad is None
    with pytest.raises(ValueError, match="one by one"):
        generic_loss(student, teacher[:, :2])
    with pytest.raises(ValueError, match="beta"):
        generic_loss(student, teacher, beta=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_variances_do_not_overflow_sixteen_bits(dtype: torch.dtype) -> None:
    teacher = torch.tensor([[[3e4, -3e4]]]).to(dtype)
    assert generic_loss(torch.zeros_like(teacher), teacher).item() == pytest.approx(0.25, rel=0.01)


def test_a_predictor_has_the_teachers_channels() -> None:
    assert FeaturePredictor(4, 6)(samples(2, 3, 4)).shape == (2, 3, 6)
