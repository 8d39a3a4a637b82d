import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekd.algorithms.fake_quant import quantize_dequantize
from edgekd.algorithms.weight_steps import clipped_steps, group_inputs, widest_steps

values = st.floats(-100, 100, width=32).map(lambda v: 0.0 if abs(v) < 1e-3 else v)
matrices = st.tuples(st.integers(1, 5), st.integers(1, 40)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=values).map(torch.from_numpy)
)
limits = st.sampled_from([7, 127])


@settings(deadline=None)  # the machines that run this are shared
@given(matrices, limits)
def test_inside_the_range_the_error_is_at_most_half_a_step(rows: torch.Tensor, qmax: int) -> None:
    for steps in (widest_steps(rows, qmax), clipped_steps(rows, qmax)):
        assert steps.shape == (len(rows),) and bool((steps > 0).all())
        scale = steps.unsqueeze(1)
        found = quantize_dequantize(rows, scale, -qmax, qmax)
        assert bool(((found / scale).round().abs() <= qmax).all())
        inside = rows.abs() <= qmax * scale
        assert bool((((found - rows).abs() <= 0.5001 * scale) | ~inside).all())


@settings(deadline=None)  # the machines that run this are shared
@given(matrices, limits)
def test_clipping_never_costs(rows: torch.Tensor, qmax: int) -> None:
    errors = [
        (quantize_dequantize(rows, find(rows, qmax).unsqueeze(1), -qmax, qmax) - rows)
        .square()
        .sum(1)
        for find in (clipped_steps, widest_steps)
    ]
    assert bool((errors[0] <= errors[1] * 1.0001 + 1e-6).all())


def test_the_widest_step_clips_nothing_and_the_other_one_an_outlier() -> None:
    rows = torch.cat([torch.linspace(-1, 1, 200), torch.tensor([1.6])]).reshape(1, -1)
    assert torch.isclose(widest_steps(rows, 7), torch.tensor([1.6 / 7])).all()
    assert float(clipped_steps(rows, 7)) < 1.5 / 7


def test_a_row_of_zeros_takes_the_step_of_the_widest() -> None:
    rows = torch.tensor([[0.0, 0.0], [7.0, -1.0]])
    assert widest_steps(rows, 7).tolist() == [1.0, 1.0]
    assert bool((clipped_steps(torch.zeros(2, 3), 7) > 0).all())


@settings(deadline=None)  # the machines that run this are shared
@given(matrices, st.sampled_from([1, 4, 16]))
def test_groups_are_the_inputs_in_order(weight: torch.Tensor, size: int) -> None:
    rows = group_inputs(weight, size)
    outputs, inputs = weight.shape
    assert rows.shape == (outputs * -(-inputs // size), size)
    back = rows.reshape(outputs, -1)
    assert torch.equal(back[:, :inputs], weight) and not bool(back[:, inputs:].any())
