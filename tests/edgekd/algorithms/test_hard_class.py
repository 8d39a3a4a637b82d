import math

import pytest
import torch
from loss_checks import check_gradient, check_large_half_precision, check_shift_invariance, logits

from edgekd.algorithms.hard_class import hard_class_loss


def test_a_case_worked_out_by_hand() -> None:
    # The teacher's classes are 1 and 0; the student gives them 1/2 and 3/4.
    student = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    teacher = torch.tensor([[-1.0, 1.0], [0.2, 0.1]])
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert hard_class_loss(student, teacher).item() == pytest.approx(expected)


def test_how_sure_the_teacher_is_changes_nothing() -> None:
    student, teacher = logits(), logits(seed=1)
    assert torch.equal(hard_class_loss(student, teacher), hard_class_loss(student, 9 * teacher))


def test_what_every_loss_is_to_hold() -> None:
    check_shift_invariance(hard_class_loss)
    check_large_half_precision(hard_class_loss)
    check_gradient(hard_class_loss)
