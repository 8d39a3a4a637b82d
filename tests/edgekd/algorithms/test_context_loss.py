import pytest
import torch
import torch.nn.functional as F
from networks import samples

from edgekd.algorithms.context_loss import context_loss


@pytest.mark.parametrize(
    ("size", "grids", "weights"),
    [(1, (), ()), (2, (1,), (0.5,)), (4, (2, 1), (0.5, 0.25)), (5, (4, 2, 1), (0.5, 0.25, 0.125))],
)
def test_grids_as_fine_as_the_map_are_skipped(
    size: int, grids: tuple[int, ...], weights: tuple[float, ...]
) -> None:
    student, teacher = samples(2, 3, size, size), samples(2, 3, size, size, seed=1)
    errors = [F.mse_loss(student, teacher)]
    for grid in grids:
        pooled = [F.adaptive_avg_pool2d(x, grid) for x in (student, teacher)]
        errors.append(F.mse_loss(*pooled))
    total = sum(w * e.item() for w, e in zip((1.0, *weights), errors, strict=True))
    found = context_loss(student, teacher).item()
    assert found == pytest.approx(total / (1 + sum(weights)), rel=1e-5)
    assert found <= errors[0].item() + 1e-6  # means of squares are above squares of means


def test_a_case_worked_out_by_hand() -> None:
    # A 2 x 2 map: errors 2, 0, 0, 0 have the mean square 1; their mean is 1/2.
    student, teacher = torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]]), torch.zeros(1, 1, 2, 2)
    assert context_loss(student, teacher).item() == pytest.approx((1 + 0.5 * 0.25) / 1.5)


def test_equal_maps_cost_nothing_and_the_teacher_gets_no_gradient() -> None:
    student = samples(2, 3, 5, 4).requires_grad_()
    teacher = samples(2, 3, 5, 4, seed=1).requires_grad_()
    assert context_loss(teacher, teacher).item() == 0
    context_loss(student, teacher).backward()
    assert student.grad.abs().max() > 1e-3 and teacher.grad is None
    with pytest.raises(ValueError, match="place by place"):
        context_loss(student, teacher[:, :2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_do_not_overflow_sixteen_bits(dtype: torch.dtype) -> None:
    teacher = torch.full((1, 2, 4, 4), 3000.0, dtype=dtype)
    assert context_loss(-teacher, teacher).item() == pytest.approx(3.6e7, rel=0.01)
