import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.algorithms.ranges import (
    Method,
    affine_parameters,
    choose_range,
    entropy_range,
    minmax_range,
    mse_range,
    percentile_range,
    symmetric_parameters,
)

METHODS: tuple[Method, ...] = ("minmax", "percentile", "mse", "entropy")
numbers = st.floats(-1e6, 1e6, width=32)
ends = st.tuples(numbers, numbers).map(lambda pair: (min(pair), max(pair)))


def histogram(values: np.ndarray, bins: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    counts, edges = np.histogram(values, bins)
    return counts.astype(np.float64), edges


def quantization_error(values: np.ndarray, lo: float, hi: float) -> float:
    scale, zero_point = affine_parameters(lo, hi, 0, 255)
    codes = np.clip(np.round(values / scale) + zero_point, 0, 255)
    return float(np.square((codes - zero_point) * scale - values).mean())


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=50),
    st.sampled_from(METHODS),
    st.booleans(),
)
def test_every_range_holds_zero(values: list[float], method: Method, symmetric: bool) -> None:
    lo, hi = choose_range(
        *histogram(np.array(values)), method=method, levels=256, symmetric=symmetric
    )
    assert lo <= 0.0 <= hi


def test_minmax_covers_every_value() -> None:
    values = np.random.default_rng(0).normal(2, 1, 5000)
    lo, hi = minmax_range(*histogram(values))
    assert lo == min(0, values.min()) and hi == pytest.approx(values.max())


def test_minmax_ignores_empty_bins_at_the_ends() -> None:
    counts, edges = np.array([0.0, 3, 0, 2, 0]), np.array([-2.0, -1, 0, 1, 2, 3])
    assert minmax_range(counts, edges) == (-1.0, 2.0)


def test_percentile_leaves_outliers_out() -> None:
    values = np.r_[np.random.default_rng(0).uniform(-1, 1, 100_000), 50.0]
    lo, hi = percentile_range(*histogram(values))
    assert -1.1 < lo < -0.95 and 0.95 < hi < 1.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_tensor_without_values_has_no_range(method: Method, symmetric: bool) -> None:
    counts, edges = np.zeros(8), np.linspace(0, 1, 9)
    found = choose_range(counts, edges, method=method, levels=256, symmetric=symmetric)
    assert found == (0.0, 0.0)


def test_mse_beats_minmax_on_heavy_tails() -> None:
    values = np.random.default_rng(0).standard_t(3, 20_000)
    found = histogram(values)
    chosen = quantization_error(values, *mse_range(*found, 256, symmetric=False))
    assert chosen < 0.97 * quantization_error(values, *minmax_range(*found))


def test_mse_keeps_everything_where_nothing_is_gained() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 20_000)
    lo, hi = mse_range(*histogram(values), 256, symmetric=False)
    assert lo == 0.0 and hi == pytest.approx(values.max(), rel=0.02)


def test_a_symmetric_mse_range_is_symmetric() -> None:
    lo, hi = mse_range(
        *histogram(np.random.default_rng(0).exponential(1, 5000)), 256, symmetric=True
    )
    assert lo == -hi < 0


@pytest.mark.parametrize("symmetric", [True, False])
def test_entropy_leaves_outliers_out(symmetric: bool) -> None:
    values = np.r_[np.random.default_rng(0).normal(0, 1, 100_000), np.linspace(20, 40, 5), -40.0]
    lo, hi = entropy_range(*histogram(values), 256, symmetric=symmetric)
    assert -12 < lo < -3 and 3 < hi < 12


def test_entropy_ignores_how_many_zeros_there_are() -> None:
    generator = np.random.default_rng(0)
    values = np.abs(generator.normal(0, 1, 50_000))
    few, many = (np.r_[values, np.zeros(count)] for count in (10, 200_000))
    found = [entropy_range(*histogram(v), 256, symmetric=False) for v in (few, many)]
    assert found[0] == found[1] and found[0][0] == 0.0 and found[0][1] > 3


def test_entropy_keeps_a_uniform_distribution_whole() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 400_000)
    assert entropy_range(*histogram(values), 256, symmetric=False)[1] > 0.97


def test_entropy_keeps_the_ratio_of_two_sides() -> None:
    values = np.random.default_rng(0).gumbel(0, 1, 100_000)
    found = histogram(values)
    (lo, hi), (least, most) = entropy_range(*found, 256, symmetric=False), minmax_range(*found)
    assert lo / hi == pytest.approx(least / most, rel=0.05) and hi < most


def test_entropy_of_a_symmetric_range_is_the_one_of_its_magnitudes() -> None:
    values = np.random.default_rng(0).standard_t(4, 50_000)
    mirrored, magnitudes = np.r_[values, -values], np.abs(values)
    lo, hi = entropy_range(*histogram(mirrored), 256, symmetric=True)
    one_sided = entropy_range(*histogram(magnitudes, 1024), 128, symmetric=False)
    assert -lo == hi == pytest.approx(one_sided[1], rel=0.02)


@pytest.mark.parametrize("sign", [1, -1])
def test_entropy_of_values_far_from_zero_reaches_zero(sign: int) -> None:
    values = sign * np.random.default_rng(0).uniform(5, 6, 10_000)
    lo, hi = entropy_range(*histogram(values), 256, symmetric=False)
    assert min(abs(lo), abs(hi)) == 0.0 and max(abs(lo), abs(hi)) > 5


@given(ends, st.sampled_from([(0, 255), (-128, 127)]))
def test_zero_is_a_code_and_the_range_is_covered(
    found: tuple[float, float], codes: tuple[int, int]
) -> None:
    (lo, hi), (qmin, qmax) = found, codes
    scale, zero_point = affine_parameters(lo, hi, qmin, qmax)
    assert scale > 0 and isinstance(zero_point, int) and qmin <= zero_point <= qmax
    assert (qmin - zero_point) * scale <= min(lo, 0) + 0.51 * scale
    assert (qmax - zero_point) * scale >= max(hi, 0) - 0.51 * scale


@given(st.floats(0, 1e6, width=32))
def test_a_range_from_zero_has_the_smallest_code_for_zero(hi: float) -> None:
    assert affine_parameters(0.0, hi, 0, 255)[1] == 0


@given(ends)
def test_symmetric_parameters_reach_the_largest_value(found: tuple[float, float]) -> None:
    scale, zero_point = symmetric_parameters(*found, 127)
    assert zero_point == 0 and scale > 0
    assert 127 * scale >= max(-found[0], found[1]) * (1 - 1e-6)


@pytest.mark.parametrize("width", [0.0, 1e-44])
def test_a_dead_tensor_gets_a_usable_scale(width: float) -> None:
    assert affine_parameters(0.0, width, 0, 255) == (1.0, 0)
    assert symmetric_parameters(-width, width, 127) == (1.0, 0)
