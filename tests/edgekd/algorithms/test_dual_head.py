import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_checks import check_gradient, check_large_half_precision, logits
from networks import samples

from edgekd.algorithms.dual_head import DualHead, dual_head_loss


def test_equal_logits_cost_nothing_and_shifted_ones_do() -> None:
    some = logits()
    assert dual_head_loss(some, some).item() == pytest.approx(0, abs=1e-12)
    assert dual_head_loss(some + 1, some).item() > 0.1


@given(st.integers(0, 100), st.floats(0.5, 8))
def test_it_is_the_divergence_of_sigmoids_from_a_half(seed: int, temperature: float) -> None:
    student, teacher = logits(seed=seed), logits(seed=seed + 1)
    q = ((student - teacher) / temperature).sigmoid()
    each = 0.5 * (0.5 / q).log() + 0.5 * (0.5 / (1 - q)).log()
    found = dual_head_loss(student, teacher, temperature=temperature)
    assert found.item() == pytest.approx(each.sum(1).mean().item() * temperature**2)
    turned = dual_head_loss(teacher, student, temperature=temperature)
    assert turned.item() == pytest.approx(found.item())


def test_a_case_worked_out_by_hand() -> None:
    # One logit is 2 T log 3 away: cosh(log 3) = (3 + 1/3) / 2 = 5/3; T^2 = 4, two samples.
    student = torch.tensor([[4 * math.log(3), 1.0], [0.0, 0.0]])
    teacher = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert dual_head_loss(student, teacher).item() == pytest.approx(2 * math.log(5 / 3))


def test_the_limits_are_a_squared_and_an_absolute_error() -> None:
    student, teacher = logits(), logits(seed=1)
    squared = (student - teacher).square().sum(1).mean() / 8
    warm = dual_head_loss(student, teacher, temperature=1e3)
    assert warm.item() == pytest.approx(squared.item(), rel=1e-4)
    t = 1e-3
    absolute = (student - teacher).abs().sum(1).mean() * t / 2 - t**2 * 5 * math.log(2)
    cold = dual_head_loss(student, teacher, temperature=t)
    assert cold.item() == pytest.approx(absolute.item(), rel=1e-4)


def test_what_every_loss_is_to_hold() -> None:
    check_large_half_precision(dual_head_loss)
    check_gradient(dual_head_loss)


@pytest.mark.parametrize("hidden", [None, 6])
def test_the_head_maps_features_to_classes(hidden: int | None) -> None:
    head = DualHead(8, 3, hidden=hidden)
    head(samples(4, 8)).sum().backward()
    assert head(samples(4, 8)).shape == (4, 3)
    assert all(weight.grad is not None for weight in head.parameters())
    linear = sum(weight.numel() for weight in head.parameters()) == 8 * 3 + 3
    assert linear == (hidden is None)
