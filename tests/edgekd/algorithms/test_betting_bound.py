"""The betting test: how often it is wrong, what it needs, and what it must never say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.algorithms.betting_bound import betting_p_value, betting_upper_bound

TRIALS = 1000


def drawn(rates: tuple[float, float], count: int, seed: int = 0) -> np.ndarray:
    """Return losses (TRIALS, count): 1 and -1 at these rates, else 0."""
    up, down = rates
    u = np.random.default_rng(seed).random((TRIALS, count))
    return (u < up).astype(float) - (u > 1 - down)


@pytest.mark.parametrize("delta", [0.05, 0.2])
@pytest.mark.parametrize(
    ("rates", "count"),
    [((0.02, 0.0), 700), ((0.03, 0.01), 700), ((0.12, 0.1), 700), ((0.3, 0.28), 100)],
)
def test_false_rejections_stay_within_the_level(
    rates: tuple[float, float], count: int, delta: float
) -> None:
    losses = drawn(rates, count)  # the mean is 0.02, right at the limit
    most = delta + 3 * math.sqrt(delta * (1 - delta) / TRIALS)

    assert (betting_p_value(losses, 0.02, delta) <= delta).mean() <= most
    assert (betting_upper_bound(losses, delta) < 0.02).mean() <= most


def test_losses_between_the_ends_count_too() -> None:
    losses = np.random.default_rng(1).uniform(-0.2, 0.24, size=(TRIALS, 400))  # mean 0.02

    assert (betting_p_value(losses, 0.02, 0.1) <= 0.1).mean() <= 0.1 + 3 * 0.0067


def test_it_can_tell_a_small_loss_from_the_limit() -> None:
    losses = drawn((0.01, 0.01), 3000)[:300]

    assert (betting_p_value(losses, 0.02, 0.05) <= 0.05).mean() > 0.95
    assert betting_upper_bound(losses, 0.05).mean() < 0.015


def test_without_any_loss() -> None:
    # Once the bets are at their cap, 1.9 / (1 - limit), every sample multiplies the wealth by
    # 1 + 0.95 * limit / (1 - limit); no bet can do better than 1 / (1 - limit), which is binomial.
    def needed(limit: float) -> int:
        return next(n for n in range(1, 3000) if betting_p_value(np.zeros(n), limit, 0.05) <= 0.05)

    for limit in (0.005, 0.02, 0.05):
        least = math.log(0.05) / math.log(1 - limit)
        assert least <= needed(limit) <= 1.2 * least
    few = betting_p_value(np.zeros(4), 0.02, 0.05)
    variances = [0.25 / (i + 1) for i in range(4)]  # all samples are at the prior mean
    bets = [math.sqrt(2 * math.log(20) / (4 * v)) for v in variances]
    wealth = np.prod([1 + min(b, 0.95 / 0.49) * 0.01 for b in bets])
    assert few == pytest.approx(1 / wealth)


@given(
    losses=st.lists(st.sampled_from([-1, 0, 0, 0, 0, 1]), min_size=1, max_size=60),
    delta=st.sampled_from([0.02, 0.1, 0.4]),
)
def test_bounds_lie_above_the_mean_and_fall_with_delta(losses: list[int], delta: float) -> None:
    bound = betting_upper_bound(losses, delta)

    assert np.mean(losses) - 1e-9 <= bound <= 1
    assert bound <= betting_upper_bound(losses, delta / 2) + 1e-9
    if bound < 0.999:
        assert betting_p_value(losses, float(bound) + 1e-6, delta) <= delta


def test_says_what_is_wrong() -> None:
    for losses in ([], [2.0], [math.nan], 0.0):
        with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
            betting_p_value(losses, 0.1, 0.05)
