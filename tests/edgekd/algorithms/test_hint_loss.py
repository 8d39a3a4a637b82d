import pytest
import torch
from networks import samples

from edgekd.algorithms.hint_loss import hint_loss


def test_a_case_worked_out_by_hand() -> None:
    student = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert hint_loss(student, teacher).item() == pytest.approx((4 + 9 + 1) / 4)


def test_maps_are_compared_at_the_smaller_size() -> None:
    small = samples(2, 3, 2, 2)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert hint_loss(small, large).item() == pytest.approx(0, abs=1e-12)
    assert hint_loss(large, small + 1).item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4, 3, 2, 2)])
def test_equal_features_cost_nothing_and_the_teacher_gets_no_gradient(
    shape: tuple[int, ...],
) -> None:
    student = samples(*shape).requires_grad_()
    teacher = samples(*shape, seed=1).requires_grad_()
    assert hint_loss(teacher, teacher).item() == 0
    hint_loss(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None


def test_unlike_channels_or_tokens_are_refused() -> None:
    for shape in ((4, 6), (4, 5, 3), (4, 6, 2, 2)):
        with pytest.raises(ValueError, match="equal shapes"):
            hint_loss(samples(4, 5), samples(*shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_do_not_overflow_sixteen_bits(dtype: torch.dtype) -> None:
    teacher = torch.full((4, 8), 3000.0, dtype=dtype)
    assert hint_loss(-teacher, teacher).item() == pytest.approx(3.6e7, rel=0.01)
