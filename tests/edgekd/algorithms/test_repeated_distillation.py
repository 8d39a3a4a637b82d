from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_checks import check_gradient, check_large_half_precision, check_shift_invariance, logits
from networks import samples

from edgekd.algorithms.repeated_distillation import (
    best_label_share,
    repeated_distillation_loss,
    ridge_generations,
    ridge_limit,
)

POINTS = samples(6, 3).double()
GRAM, TARGETS = POINTS @ POINTS.T, samples(6, 2, seed=1).double()
SMOOTHER = torch.from_numpy(
    GRAM.numpy() @ np.linalg.inv(GRAM.numpy() + 0.7 * np.eye(6))  # written independently
)


def test_labels_alone_stay_and_the_teacher_alone_shrinks() -> None:
    for found in ridge_generations(GRAM, TARGETS, 0.7, [1.0] * 4):
        torch.testing.assert_close(found, SMOOTHER @ TARGETS)
    generations = ridge_generations(GRAM, TARGETS, 0.7, [0.0] * 5)
    power = TARGETS
    for found in generations:
        power = SMOOTHER @ power
        torch.testing.assert_close(found, power)
    norms = [found.norm().item() for found in generations]
    assert norms == sorted(norms, reverse=True)


def test_many_generations_end_in_one_ridge_regression() -> None:
    last = ridge_generations(GRAM, TARGETS, 0.7, [0.25] * 200)[-1]
    torch.testing.assert_close(last, ridge_limit(GRAM, TARGETS, 0.7, 0.25))
    assert ridge_limit(GRAM, TARGETS, 0.7, 0.0).abs().max() == 0


def test_the_share_of_every_direction_falls_to_its_limit() -> None:
    """With one eigenvalue d: from d / (d + ridge) down to a d / (a d + ridge)."""
    one = torch.ones(1, 1)
    generations = ridge_generations(2 * one, one, 1.0, [0.5] * 30)
    factors = [found.item() for found in generations]
    assert factors[0] == pytest.approx(2 / 3)
    assert all(a >= b for a, b in pairwise(factors))
    assert factors[-1] == pytest.approx(0.5 * 2 / (0.5 * 2 + 1))


@given(st.integers(0, 1000))
def test_the_best_share_is_that_of_a_grid(seed: int) -> None:
    one, two, truth = (samples(5, 2, seed=seed + i).double() for i in range(3))
    grid = torch.linspace(0, 1, 2001)[:, None, None].double()
    errors = (grid * one + (1 - grid) * two - truth).square().sum((1, 2))
    found = best_label_share(one, two, truth)
    assert found == pytest.approx(grid[errors.argmin()].item(), abs=1e-3)


def test_equal_predictions_leave_the_labels() -> None:
    assert best_label_share(TARGETS, TARGETS, TARGETS * 2) == 1.0


def test_the_loss_by_hand() -> None:
    # Student (1/2, 1/2), teacher (3/4, 1/4), label 0: 0.6 * 1/4 + 0.4 * 1/16; without one, 1/16.
    student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1]]).log()
    labelled = repeated_distillation_loss(student, teacher, labels=torch.tensor([0]))
    assert labelled.item() == pytest.approx(0.175)
    for labels in (None, torch.tensor([-1])):
        found = repeated_distillation_loss(student, teacher, labels=labels)
        assert found.item() == pytest.approx(1 / 16)


def test_a_ridge_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="ridge"):
        ridge_generations(GRAM, TARGETS, 0.0, [1.0])


def test_what_every_loss_is_to_hold() -> None:
    def loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        labels = torch.tensor([1, 0, -1, 2])[: len(student)]
        return repeated_distillation_loss(student, teacher, labels=labels)

    check_shift_invariance(loss, classes=4)
    check_large_half_precision(loss)
    check_gradient(loss)
    assert loss(logits(), logits()) > 0
