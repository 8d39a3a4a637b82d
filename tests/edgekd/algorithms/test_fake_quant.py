import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import samples
from torch import Tensor

from edgekd.algorithms.fake_quant import (
    fake_quantize,
    lsq_gradient_scale,
)

scales = st.floats(2**-13, 1024, width=32)
values = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40)
bounds = st.tuples(st.integers(-255, 0), st.integers(0, 255)).filter(lambda b: b[0] < b[1])


def close_up_to_ties(found: Tensor, expected: Tensor, x: Tensor, step: Tensor) -> bool:
    """torch multiplies by 1/s where we divide by s: a tie may go either way, by one step."""
    fraction = (x / step).double().abs() % 1
    tie = (fraction - 0.5).abs() < 1e-3 * (x / step).abs().clamp_min(1)
    tolerance = torch.where(tie, 1.01 * step, 1e-5 * step * 256)
    return bool(((found - expected).abs() <= tolerance).all())


@given(values, scales, st.integers(0, 255))
def test_like_torch_for_one_scale(x: list[float], scale: float, zero_point: int) -> None:
    t, s = torch.tensor(x), torch.tensor([scale])
    expected = torch.fake_quantize_per_tensor_affine(t, scale, zero_point, 0, 255)
    found = fake_quantize(t, s, -zero_point, 255 - zero_point)
    assert close_up_to_ties(found, expected, t, s)


def test_like_torch_for_a_scale_per_channel() -> None:
    x, scale = samples(6, 4, 3, 3) * 3, torch.rand(6) * 0.05 + 0.01
    expected = torch.fake_quantize_per_channel_affine(
        x, scale, torch.zeros(6, dtype=torch.int32), 0, -127, 127
    )
    step = scale.reshape(6, 1, 1, 1)
    assert close_up_to_ties(fake_quantize(x, step, -127, 127), expected, x, step.expand_as(x))


@given(values, scales, bounds)
def test_quantizing_twice_changes_nothing(
    x: list[float], scale: float, limits: tuple[int, int]
) -> None:
    step = torch.tensor([scale])
    once = fake_quantize(torch.tensor(x), step, *limits)
    assert torch.equal(fake_quantize(once, step, *limits), once)


def test_rounds_half_to_even_and_clips() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 99.0, -99.0])
    y = fake_quantize(x, torch.tensor([1.0]), -3, 4)
    assert y.tolist() == [0.0, 2.0, 2.0, -0.0, -2.0, 4.0, -3.0]


@pytest.mark.parametrize(
    ("x", "to_x", "to_scale"),
    [
        (0.3, 1.0, 1.0 - 0.6),
        (0.7, 1.0, 1.0 - 1.4),
        (-0.9, 1.0, -2.0 + 1.8),
        (9.0, 0.0, 4.0),
        (-9.0, 0.0, -3.0),
    ],
)
def test_the_gradients_of_the_lsq_paper(x: float, to_x: float, to_scale: float) -> None:
    t, scale = torch.tensor([x], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    fake_quantize(t, scale, -3, 4).sum().backward()
    assert t.grad is not None and scale.grad is not None
    assert t.grad.item() == to_x
    assert scale.grad.item() == pytest.approx(to_scale, abs=1e-6)


@given(values, scales, bounds, st.integers(0, 9))
def test_one_scale_and_a_scale_per_channel_have_the_same_gradient(
    x: list[float], scale: float, limits: tuple[int, int], seed: int
) -> None:
    t, step = torch.tensor(x), torch.tensor([scale])
    weights = samples(len(x), seed=seed)
    grads = []
    for copies in (1, 2):  # two rows, each with a scale of its own, take the path of weights
        a = t.repeat(copies, 1).requires_grad_()
        s = step.repeat(copies, 1).requires_grad_()
        (fake_quantize(a, s, *limits) * weights).sum().backward()
        assert a.grad is not None and s.grad is not None
        grads.append((a.grad[-1], s.grad[-1]))
    assert torch.equal(grads[0][0], grads[1][0])
    # Both take differences of sums, whose rounding errors grow with what is summed.
    size = float((weights.abs() * (t.abs() / step).clamp_max(512)).sum())
    assert torch.allclose(grads[0][1], grads[1][1], rtol=1e-4, atol=1e-5 * size + 1e-5)


def test_the_gradient_of_a_scale_per_channel_stays_in_its_channel() -> None:
    x = torch.stack([torch.full((3,), 100.0), torch.full((3,), 0.25)])
    scale = torch.ones(2, 1, requires_grad=True)
    fake_quantize(x, scale, -127, 10).sum().backward()
    assert scale.grad is not None
    assert scale.grad.flatten().tolist() == pytest.approx([30.0, -0.75])


def test_the_grid_keeps_its_precision_when_layers_compute_in_sixteen_bits() -> None:
    x = samples(3, 4).bfloat16().requires_grad_()
    scale = torch.tensor([0.013])
    y = fake_quantize(x, scale, -127, 127)
    y.sum().backward()
    assert y.dtype == torch.float32
    assert torch.equal(y, fake_quantize(x.detach().float(), scale, -127, 127))
    assert x.grad is not None and x.grad.dtype == torch.bfloat16


def test_no_gradient_for_a_fixed_scale() -> None:
    x = samples(3, 4).requires_grad_()
    for scale in (torch.ones(1), torch.ones(3, 1)):
        fake_quantize(x, scale, -1, 1).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, 2.0 * (x.detach().abs() < 1))


@settings(max_examples=20)
@given(st.integers(1, 10), st.integers(1, 100), st.integers(1, 255))
def test_gradient_scale(groups: int, each: int, hi: int) -> None:
    found = lsq_gradient_scale(torch.zeros(groups, each), groups, hi)
    assert found == pytest.approx(1 / np.sqrt(each * hi))
