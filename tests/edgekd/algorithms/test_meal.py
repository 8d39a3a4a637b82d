import pytest
import torch
import torch.nn.functional as F
from loss_checks import check_large_half_precision, check_shift_invariance, gradient, logits

from edgekd.algorithms.meal import meal_loss


def loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return meal_loss(student, [teacher, teacher.flip(-1)])


def test_equal_teachers_are_one_teacher() -> None:
    student, teacher = logits(), logits(seed=1)
    expected = F.cross_entropy(student, teacher.softmax(1))
    assert meal_loss(student, [teacher] * 3).item() == pytest.approx(expected.item())


def test_the_gradient_is_the_students_less_the_averaged_probabilities() -> None:
    student, teacher = logits(), logits(seed=1)
    average = (teacher.softmax(1) + teacher.flip(-1).softmax(1)) / 2
    expected = (student.softmax(1) - average) / 4
    torch.testing.assert_close(gradient(loss, student, teacher), expected)


def test_two_opposed_teachers_leave_it_open() -> None:
    """Both classes are as likely as each other, so an undecided student learns nothing."""
    teachers = [torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])]
    student = torch.zeros(1, 2, requires_grad=True)
    meal_loss(student, teachers).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-7


def test_what_every_loss_is_to_hold() -> None:
    check_shift_invariance(loss)
    check_large_half_precision(loss)
