import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.dense_kl import dense_kl
from edgekd.algorithms.kd_loss import kl_loss


def logits(seed: int = 0) -> torch.Tensor:
    return samples(2, 4, 3, 2, seed=seed).double()


@given(st.floats(0.5, 8), st.lists(st.booleans(), min_size=12, max_size=12))
def test_it_is_kl_over_the_valid_pixels(temperature: float, chosen: list[bool]) -> None:
    valid = torch.tensor(chosen).reshape(2, 3, 2)
    flat = [x.movedim(1, -1)[valid] for x in (logits(), logits(1))]
    expected = kl_loss(*flat, temperature).item() if any(chosen) else 0.0
    found = dense_kl(logits(), logits(1), temperature=temperature, valid=valid)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_a_case_worked_out_by_hand() -> None:
    # One pixel of two learns (3/4, 1/4) from (1/2, 1/2), the other has nothing to learn.
    student, teacher = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    teacher[0, 0, 0, 0] = math.log(3)
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert dense_kl(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_pixels_that_do_not_count_have_no_influence_at_all() -> None:
    valid = torch.ones(2, 3, 2, dtype=torch.bool)
    valid[0, 1] = False
    student, teacher = logits(), logits(1)
    plain = dense_kl(student, teacher, valid=valid).item()
    student[0, :, 1], teacher[0, :, 1] = torch.nan, torch.inf
    student.requires_grad_()
    found = dense_kl(student, teacher, valid=valid)
    found.backward()
    assert found.item() == plain > 0
    assert (student.grad[0, :, 1] == 0).all() and torch.isfinite(student.grad).all()


def test_gradients_sum_to_zero_over_classes_and_none_reaches_the_teacher() -> None:
    student, teacher = logits().requires_grad_(), logits(1).requires_grad_()
    dense_kl(student, teacher, temperature=2.0).backward()
    assert student.grad.abs().max() > 1e-3 and teacher.grad is None
    assert student.grad.sum(1).abs().max() < 1e-12
    assert dense_kl(teacher + 3, teacher).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_stay_finite(dtype: torch.dtype) -> None:
    found = dense_kl((60 * logits()).to(dtype), (-60 * logits()).to(dtype))
    assert found.dtype == torch.float32 and math.isfinite(found.item())


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="one by one"):
        dense_kl(logits(), logits()[:, :2])
    with pytest.raises(ValueError, match="mask of pixels"):
        dense_kl(logits(), logits(), valid=torch.ones(2, 2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="above 0"):
        dense_kl(logits(), logits(), temperature=-1.0)
