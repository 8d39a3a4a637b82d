import math

import pytest
import torch
from loss_checks import check_large_half_precision
from networks import samples

from edgekd.algorithms.logit_discriminator import (
    LogitDiscriminator,
    discriminated_loss,
    discriminator_loss,
)


def test_gradients_stay_on_their_side() -> None:
    discriminator = LogitDiscriminator(16)
    student = samples(4, 16).requires_grad_()
    teacher = samples(4, 16, seed=1).requires_grad_()

    discriminated_loss(discriminator, student).backward()
    assert student.grad is not None
    assert all(weight.grad is None for weight in discriminator.parameters())

    student.grad = None
    discriminator_loss(discriminator, student, teacher).backward()
    assert student.grad is None and teacher.grad is None
    assert all(weight.grad is not None for weight in discriminator.parameters())


def test_scores_worked_out_by_hand() -> None:
    """With scores (log 3, -log 3) for everything every sigmoid is 3/4 or 1/4."""
    scores = torch.tensor([math.log(3), -math.log(3)])

    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return scores.expand(len(x), 2)

    student, teacher = samples(3, 4), samples(1, 4)
    # Three student rows are right with 3/4 twice, one teacher row wrong with 1/4 twice.
    expected = -(3 * math.log(3 / 4) + math.log(1 / 4)) / 4
    assert discriminator_loss(Constant(), student, teacher).item() == pytest.approx(expected)
    assert discriminated_loss(Constant(), student).item() == pytest.approx(-math.log(1 / 4))


def test_both_learn_what_they_are_to_learn() -> None:
    torch.manual_seed(0)
    discriminator = LogitDiscriminator(4, reduction=1)
    student = (samples(16, 4) + 2).requires_grad_()
    teacher = samples(16, 4, seed=1) - 2
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        discriminator_loss(discriminator, student, teacher).backward()
        optimizer.step()
    assert discriminator_loss(discriminator, student, teacher).item() < 0.3
    before = discriminated_loss(discriminator, student)
    before.backward()
    assert student.grad is not None
    moved = student.detach() - 5 * student.grad
    assert discriminated_loss(discriminator, moved).item() < before.item()


def test_few_classes_have_a_discriminator_too() -> None:
    discriminator = LogitDiscriminator(2)
    assert discriminator(samples(3, 2)).shape == (3, 2)
    check_large_half_precision(lambda s, _: discriminated_loss(discriminator, s), classes=2)
