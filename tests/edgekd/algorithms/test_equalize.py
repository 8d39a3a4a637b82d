import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.equalize import (
    equalizing_factors,
    input_widths,
    output_widths,
    scale_inputs,
)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 100))
def test_scaled_inputs_are_what_a_grouped_convolution_sees(
    groups: int, per_group: int, outputs: int, seed: int
) -> None:
    weight = samples(groups * outputs, per_group, 3, 3, seed=seed)
    factors = samples(groups * per_group, seed=seed + 1).exp()
    x = samples(2, groups * per_group, 5, 5, seed=seed + 2)
    expected = F.conv2d(x * factors.reshape(1, -1, 1, 1), weight, groups=groups)
    found = F.conv2d(x, scale_inputs(weight, factors, groups), groups=groups)
    assert torch.allclose(found, expected, atol=1e-4)


@given(st.integers(1, 4), st.integers(0, 100))
def test_widths_follow_the_factors(groups: int, seed: int) -> None:
    weight = samples(groups * 2, 3, 2, seed=seed)
    factors = samples(groups * 3, seed=seed + 1).exp()
    scaled = input_widths(scale_inputs(weight, factors, groups), groups)
    assert torch.allclose(scaled, input_widths(weight, groups) * factors)


def test_factors_make_both_widths_equal() -> None:
    first, second = samples(6, 3), samples(4, 6)
    s = equalizing_factors(output_widths(first), input_widths(second, 1))
    a, b = output_widths(first / s[:, None]), input_widths(scale_inputs(second, s, 1), 1)
    assert torch.allclose(a, b)


def test_channels_of_zeros_are_left_alone() -> None:
    found = equalizing_factors(torch.tensor([0.0, 4.0, 4.0]), torch.tensor([1.0, 0.0, 1.0]))
    assert found.tolist() == [1.0, 1.0, 2.0]
