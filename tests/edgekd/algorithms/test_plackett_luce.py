import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from loss_checks import check_gradient, check_large_half_precision, check_shift_invariance, logits

from edgekd.algorithms.plackett_luce import plackett_luce_loss

LABELS = torch.tensor([1, 0, 4, 2])


def test_a_case_worked_out_by_hand() -> None:
    # Teacher (4, 1, 3)/8, label 1: the order is 1, 0, 2 with weights 1/8, 4/8, 3/8. The student's
    # exponentials are 2, 1, 5, so the three terms are log(8/1), log(7/2) and 0.
    teacher, student = torch.tensor([[4.0, 1, 3]]).log(), torch.tensor([[2.0, 1, 5]]).log()
    found = plackett_luce_loss(student, teacher, labels=torch.tensor([1]))
    expected = math.log(8) / 8 + math.log(7 / 2) / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_without_a_label_the_order_is_the_teachers() -> None:
    teacher, student = torch.tensor([[4.0, 1, 3]]).log(), torch.tensor([[2.0, 1, 5]]).log()
    expected = math.log(8 / 2) * 4 / 8 + math.log(6 / 5) * 3 / 8  # 0, 2, 1
    for labels in (torch.tensor([-1]), None):
        found = plackett_luce_loss(student, teacher, labels=labels)
        assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_teacher_that_is_sure_of_the_label_gives_the_cross_entropy() -> None:
    student, teacher = logits(), F.one_hot(LABELS, 5).double() * 500
    found = plackett_luce_loss(student, teacher, labels=LABELS)
    assert found.item() == pytest.approx(F.cross_entropy(student, LABELS).item())


def test_equal_weights_give_the_likelihood_of_the_list() -> None:
    student, teacher = logits(), logits(seed=1)
    found = plackett_luce_loss(student, teacher, labels=LABELS, temperature=1e12)
    total = 0.0
    for row, rank, label in zip(student, teacher, LABELS, strict=True):
        order = [int(label)] + [i for i in rank.argsort(descending=True).tolist() if i != label]
        for position, index in enumerate(order):
            total += (row[order[position:]].logsumexp(0) - row[index]).item()
    assert found.item() == pytest.approx(total / 4 / 5)


@given(st.integers(0, 1000))
def test_it_is_convex_in_the_student(seed: int) -> None:
    one, two, teacher = (logits(seed=seed + i) for i in range(3))

    def loss(student: torch.Tensor) -> float:
        return plackett_luce_loss(student, teacher, labels=LABELS).item()

    assert loss((one + two) / 2) <= (loss(one) + loss(two)) / 2 + 1e-9


def test_the_teachers_order_of_wrong_classes_counts() -> None:
    student, teacher = logits(1), torch.tensor([[0.0, 1, 2, 3, 4]]).double()
    swapped = teacher[:, [0, 1, 3, 2, 4]]
    label = torch.tensor([0])
    one = plackett_luce_loss(student, teacher, labels=label)
    assert abs(one - plackett_luce_loss(student, swapped, labels=label)) > 1e-3


def test_equal_teacher_logits_keep_the_order_of_the_classes() -> None:
    student = logits(1, 40)
    found = plackett_luce_loss(student, torch.zeros_like(student), labels=torch.tensor([0]))
    rows = [student[0, k:].logsumexp(0) - student[0, k] for k in range(40)]
    assert found.item() == pytest.approx(torch.stack(rows).mean().item())


def test_what_every_loss_is_to_hold() -> None:
    def loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return plackett_luce_loss(student, teacher, labels=LABELS[: len(student)] % 4)

    check_shift_invariance(loss)
    check_large_half_precision(loss)
    check_gradient(loss)
