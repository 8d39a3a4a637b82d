"""Two groups that were not taken in pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.bench.rank_sum import shift_bounds

GROUP = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


@given(GROUP, GROUP, st.floats(-100, 100))
def test_a_shift_is_found_as_it_is(first: list[float], second: list[float], shift: float) -> None:
    found = shift_bounds(first, second, 0.05)
    moved = shift_bounds(first, [value + shift for value in second], 0.05)
    for before, after in zip(found, moved, strict=True):
        assert after == before or after == pytest.approx(before + shift, abs=1e-6)
    assert found.low <= found.centre <= found.high


def test_bounds_miss_as_rarely_as_they_promise() -> None:
    rng = np.random.default_rng(0)
    misses = sum(
        shift_bounds(list(rng.normal(0, 1, 12)), list(rng.normal(0, 1, 12)), 0.05).low > 0
        for _ in range(2000)
    )
    assert 0.03 < misses / 2000 < 0.065


def test_too_few_bound_nothing() -> None:
    assert shift_bounds([1.0], [2.0, 3.0], 0.01) == (1.5, -math.inf, math.inf)
    with pytest.raises(ValueError, match="both groups"):
        shift_bounds([], [1.0], 0.01)
