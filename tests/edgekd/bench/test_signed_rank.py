"""Exact bounds: held to a count of all sign patterns, which is what the test's name promises."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.bench.signed_rank import bounds, critical_rank, walsh_averages

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20)
ERRORS = st.sampled_from([0.2, 0.05, 0.01, 2.0**-8, 0.001])


def chance_of_missing(count: int, rank: int) -> float:
    """Return how often the rank-th Walsh average lies above the centre, over all sign patterns.

    The sizes of the values do not matter for signed ranks, so powers of two stand for any sizes
    whose pairs all differ.
    """
    sizes = [2.0**i for i in range(count)]
    missed = 0
    for signs in product((-1, 1), repeat=count):
        averages = walsh_averages([sign * size for sign, size in zip(signs, sizes, strict=True)])
        missed += averages[rank - 1] > 0
    return missed / 2**count


@pytest.mark.parametrize("count", [5, 7, 8])
@pytest.mark.parametrize("error", [0.05, 0.01, 2.0**-8])
def test_bounds_are_as_tight_as_the_error_allows_and_no_tighter(count: int, error: float) -> None:
    rank = critical_rank(count, error)
    if rank:
        assert chance_of_missing(count, rank) <= error
    assert chance_of_missing(count, rank + 1) > error


@given(VALUES, ERRORS, st.floats(-100, 100))
def test_bounds_move_with_the_values(values: list[float], error: float, shift: float) -> None:
    found, moved = bounds(values, error), bounds([v + shift for v in values], error)
    for before, after in zip(found, moved, strict=True):
        assert after == before or after == pytest.approx(before + shift, abs=1e-6)


@given(VALUES, ERRORS)
def test_bounds_mirror(values: list[float], error: float) -> None:
    found, mirrored = bounds(values, error), bounds([-v for v in values], error)
    assert mirrored == (-found.centre, -found.high, -found.low)
    assert found.low <= found.centre <= found.high


def test_too_few_values_bound_nothing() -> None:
    assert bounds([1.0] * 6, 0.01) == (1.0, -math.inf, math.inf)
    assert bounds([1.0] * 7, 0.01) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="no values"):
        bounds([], 0.01)


def test_a_wild_value_moves_the_bounds_only_so_far() -> None:
    rng = np.random.default_rng(0)
    values = list(rng.normal(0, 1, 12))
    tame, wild = bounds(values, 0.05), bounds([*values[:-1], 1e9], 0.05)
    assert wild.centre < tame.centre + 1
    assert wild.low < tame.low + 1
