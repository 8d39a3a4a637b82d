"""The arithmetic of a duet, by its properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekd.bench.stats import (
    coverage,
    median_of_processes,
    percentile,
    process_log_ratios,
    speed_up,
)

quick = settings(max_examples=50, deadline=None)
times = st.floats(1e-3, 1e4)
shapes = st.tuples(st.integers(1, 6), st.integers(1, 9))
samples = hnp.arrays(np.float64, shapes, elements=times)
pairs = shapes.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float64, shape, elements=times), hnp.arrays(np.float64, shape, elements=times)
    )
)


@quick
@given(samples)
def test_a_model_against_itself_is_exactly_one(x: np.ndarray) -> None:
    result = speed_up(x, x)
    assert (result.ratio, result.low, result.high) == (1.0, 1.0, 1.0)


@quick
@given(pairs, st.floats(1e-2, 1e2))
def test_scaling_one_models_times_scales_the_ratio(
    pair: tuple[np.ndarray, np.ndarray], k: float
) -> None:
    base, other = pair
    one, scaled = speed_up(base, other), speed_up(k * base, other)
    assert scaled.ratio == pytest.approx(k * one.ratio)
    assert scaled.low == pytest.approx(k * one.low)
    assert scaled.high == pytest.approx(k * one.high)


@quick
@given(pairs)
def test_exchanging_the_models_inverts_the_ratio(pair: tuple[np.ndarray, np.ndarray]) -> None:
    forth, back = speed_up(*pair), speed_up(*reversed(pair))
    assert forth.ratio * back.ratio == pytest.approx(1)
    assert forth.low * back.high == pytest.approx(1)


@quick
@given(pairs)
def test_the_interval_holds_the_ratio(pair: tuple[np.ndarray, np.ndarray]) -> None:
    result = speed_up(*pair)
    assert result.low <= result.ratio * (1 + 1e-12)
    assert result.ratio <= result.high * (1 + 1e-12)


@quick
@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_rounds_and_processes_does_not_matter(
    pair: tuple[np.ndarray, np.ndarray], random: object
) -> None:
    base, other = pair
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    rows, columns = rng.permutation(base.shape[0]), rng.permutation(base.shape[1])
    shuffled = speed_up(base[rows][:, columns], other[rows][:, columns])
    assert shuffled == speed_up(base, other)


def test_disturbed_calls_and_one_lucky_process_change_nothing() -> None:
    base, other = np.full((5, 20), 2.0), np.full((5, 20), 1.0)
    base[:, :9] = 500.0
    other[3] = 0.1
    assert speed_up(base, other).ratio == pytest.approx(2)
    assert speed_up(base, other).high == pytest.approx(20)


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (0, 3), (6,)])
def test_refuses_samples_that_are_not_pairs(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="paired samples"):
        process_log_ratios(np.ones((2, 3)), np.ones(shape))


@pytest.mark.parametrize(("q", "needed"), [(10, 10), (50, 2), (90, 10), (99, 100), (99.9, 1000)])
def test_percentiles_only_where_the_count_carries_them(q: float, needed: int) -> None:
    assert percentile([1.0] * (needed - 1), q) is None
    assert percentile([1.0] * needed, q) == 1.0


def test_no_count_carries_the_ends() -> None:
    assert percentile([1.0] * 5000, 100) is None
    assert percentile([], 50) is None
    with pytest.raises(ValueError, match="between 0 and 100"):
        percentile([1.0], 101)


@quick
@given(st.lists(times, min_size=10, max_size=60))
def test_percentiles_lie_within_the_samples_and_rise(x: list[float]) -> None:
    median, p90 = percentile(x, 50), percentile(x, 90)
    assert median is not None
    assert p90 is not None
    assert min(x) <= median <= p90 <= max(x)


def test_coverage_is_what_simulation_finds() -> None:
    draws = np.random.default_rng(0).normal(size=(20_000, 5))
    found = np.mean((draws.min(axis=1) < 0) & (draws.max(axis=1) > 0))
    assert coverage(5) == pytest.approx(found, abs=0.01)
    assert coverage(1) == 0


def test_the_median_time_is_that_of_the_typical_process() -> None:
    assert median_of_processes([[1, 1, 9], [2, 2, 2], [50, 50, 50]]) == 2
