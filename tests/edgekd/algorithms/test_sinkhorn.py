import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_checks import check_gradient, check_large_half_precision, check_shift_invariance, logits

from edgekd.algorithms.sinkhorn import sinkhorn_loss


def test_one_sample_gives_the_absolute_difference_of_the_probabilities() -> None:
    student, teacher = logits(1), logits(1, seed=1)
    expected = ((student / 2).softmax(1) - (teacher / 2).softmax(1)).abs().sum()
    assert sinkhorn_loss(student, teacher).item() == pytest.approx(expected.item())


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_it_equals_the_plain_rounds_in_numpy(seed: int) -> None:
    student, teacher = logits(seed=seed), logits(seed=seed + 1)

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True)

    p, q = softmax(student.numpy()), softmax(teacher.numpy())
    cost = np.abs(p[:, None] - q[None]).sum(-1)
    plan = np.exp(-cost / 0.1)
    for _ in range(20):
        plan /= plan.sum(1, keepdims=True)
        plan /= plan.sum(0, keepdims=True)
    assert sinkhorn_loss(student, teacher).item() == pytest.approx((plan * cost).sum() / 4)


def test_it_does_not_know_which_row_is_which() -> None:
    student, teacher = logits(), logits(seed=1)
    found = sinkhorn_loss(student, teacher[[2, 0, 3, 1]])
    assert found.item() == pytest.approx(sinkhorn_loss(student, teacher).item(), rel=1e-12)


def test_equal_batches_cost_little_but_not_nothing() -> None:
    some = logits(spread=8.0)
    equal = sinkhorn_loss(some, some).item()
    assert 0 < equal < 0.2 * sinkhorn_loss(some, logits(seed=1, spread=8.0)).item()


def test_a_tiny_entropy_does_not_underflow() -> None:
    value = sinkhorn_loss(logits(spread=9.0).float(), logits(seed=1).float(), epsilon=1e-3)
    assert value.isfinite() and value > 0


def test_what_every_loss_is_to_hold() -> None:
    check_shift_invariance(sinkhorn_loss)
    check_large_half_precision(sinkhorn_loss)
    check_gradient(sinkhorn_loss)
