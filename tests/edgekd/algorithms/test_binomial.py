"""The exact tail, against fractions and against drawing."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from edgekd.algorithms.binomial import binomial_tail


@pytest.mark.parametrize("rate", [0.005, 0.3, 0.9])
@pytest.mark.parametrize("n", [1, 7, 60])
def test_equals_the_sum_of_fractions(n: int, rate: float) -> None:
    p, total = Fraction(rate), Fraction(0)
    for count in range(n):
        total += math.comb(n, count) * p**count * (1 - p) ** (n - count)
        assert binomial_tail(count, n, rate) == pytest.approx(float(total), rel=1e-10)


def test_ends() -> None:
    assert binomial_tail(-1, 5, 0.5) == 0
    assert binomial_tail(5, 5, 0.5) == 1
    assert binomial_tail(0, 5, 0.0) == 1
    assert binomial_tail(4, 5, 1.0) == 0
    assert 0 < binomial_tail(10**5 // 2 - 800, 10**5, 0.5) < 1e-6  # no underflow on the way


def test_no_loss_certifies_with_the_known_number_of_samples() -> None:
    # (1 - 0.005) ** n <= 0.05 from n = ln(0.05) / ln(0.995) = 597.6 on.
    assert binomial_tail(0, 597, 0.005) > 0.05 >= binomial_tail(0, 598, 0.005)


def test_rejects_a_rate_at_the_limit_no_more_often_than_it_may() -> None:
    counts = np.random.default_rng(0).binomial(800, 0.02, size=2000)
    rejected = np.mean([binomial_tail(int(count), 800, 0.02) <= 0.1 for count in counts])

    assert 0.01 < rejected <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 2000)
