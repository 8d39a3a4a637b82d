import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.two_teacher_regression import two_teacher_loss


def slope(error: float, tough: float, tolerant: float, side: float = 1.0) -> float:
    """Return the derivative of the loss by the distance to a truth of 0.1."""
    truth = torch.tensor([[0.1]]).double()
    student = (truth + side * error).requires_grad_()
    two_teacher_loss(student, truth + tough, truth - tolerant, truth=truth).backward()
    assert student.grad is not None
    return side * student.grad.item()


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_the_forces_in_every_zone(side: float) -> None:
    within_both = 3 * 2 + 0.45 + 0.4
    assert slope(0.1, 0.2, 0.3, side) == pytest.approx(within_both)
    assert slope(0.25, 0.2, 0.3, side) == pytest.approx(6 + 1.9 + 0.4)
    assert slope(0.4, 0.2, 0.3, side) == pytest.approx(2 * 2 * 0.4 + 1.9 + 1.8)
    assert slope(0.02, 0.2, 0.3, side) == pytest.approx(6)  # closer than 0.15 of both


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_every_force_points_to_the_truth(x: float, tough: float, mild: float, truth: float) -> None:
    values = [torch.tensor([[v]], dtype=torch.float64) for v in (x, tough, mild, truth)]
    student = values[0].requires_grad_()
    two_teacher_loss(*values[:3], truth=values[3]).backward()
    assert student.grad is not None
    assert student.grad.item() * (x - truth) >= 0


def test_a_case_worked_out_by_hand() -> None:
    # Errors 0.4, 0.2 and 0.3: main 2 (0.16 + 0.9 - 0.09), pulls 1.9 * 0.2 and 1.8 * 0.1.
    truth = torch.zeros(1, 1)
    values = (truth + 0.4, truth - 0.2, truth + 0.3)
    found = two_teacher_loss(*values, truth=truth)
    assert found.item() == pytest.approx(2 * 0.97 + 0.38 + 0.18)


def test_at_the_truth_it_is_zero() -> None:
    truth = samples(3, 4)
    found = two_teacher_loss(truth, truth + 0.1, truth - 0.2, truth=truth)
    assert found.item() == pytest.approx(0, abs=1e-7)


def test_teachers_at_the_truth_assist_nothing() -> None:
    truth = torch.zeros(1, 1)
    found = two_teacher_loss(truth + 0.3, truth, truth, truth=truth)
    assert found.item() == pytest.approx(2 * 0.09)


def test_the_main_term_is_continuous_at_the_tolerant_teacher() -> None:
    truth = torch.zeros(1, 1, dtype=torch.float64)
    below, above = (
        two_teacher_loss(truth + 0.3 + step, truth, truth + 0.3, truth=truth).item()
        for step in (-1e-9, 1e-9)
    )
    assert below == pytest.approx(above, abs=1e-7)


def test_sixteen_bits_and_gradients() -> None:
    student, tough, mild, truth = (samples(3, 2, seed=i).half() for i in range(4))
    leaves = [x.requires_grad_() for x in (student, tough, mild, truth)]
    found = two_teacher_loss(*leaves[:3], truth=leaves[3])
    found.backward()
    assert found.dtype == torch.float32 and found.isfinite()
    assert student.grad is not None
    assert all(x.grad is None for x in leaves[1:])


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        two_teacher_loss(torch.zeros(2, 1), torch.zeros(2), torch.zeros(2), truth=torch.zeros(2))
