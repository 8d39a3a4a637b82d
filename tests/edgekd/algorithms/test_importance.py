"""Scores of units, against sums written out and what removing a unit does to a loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgekd.algorithms.importance import gate_gradient, magnitude, normalised, unit_sums

PLACES = ((0, 3), (1,), (4, 2))


def weights(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_each_unit_gets_the_sum_of_all_that_belongs_to_it() -> None:
    tensor = weights(2, 5, 3)
    expected = torch.stack([tensor[:, list(places)].sum() for places in PLACES])
    torch.testing.assert_close(unit_sums(tensor, 1, PLACES), expected)
    vector = weights(5)
    expected = torch.stack([vector[list(places)].sum() for places in PLACES])
    torch.testing.assert_close(unit_sums(vector, 0, PLACES), expected)


@given(scale=st.floats(1e-3, 1e3), power=st.sampled_from([1, 2]))
def test_magnitude_ignores_the_scale_of_a_tensor(scale: float, power: int) -> None:
    members = [(weights(5, 4), 0, PLACES), (weights(7, 5, seed=1), 1, PLACES)]
    (first, *places), second = members
    found = magnitude(members, power)
    assert found.mean() == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(magnitude([(scale * first, *places), second], power), found)


@pytest.mark.parametrize("power", [1, 2])
def test_magnitude_of_one_tensor_is_its_norms(power: int) -> None:
    tensor = torch.tensor([[1.0, -2.0], [0.0, 0.0], [3.0, 0.0]])
    found = magnitude([(tensor, 0, [[0], [1], [2]])], power)
    expected = torch.tensor([3.0, 0.0, 3.0] if power == 1 else [5.0, 0.0, 9.0])
    torch.testing.assert_close(found, expected / expected.mean())


def test_no_scores_at_all_stay_zeros() -> None:
    assert normalised(torch.zeros(3)).tolist() == [0, 0, 0]


def test_a_gate_s_derivative_is_that_of_scaling_what_reads_the_units() -> None:
    x, first, second = weights(6, 5), weights(4, 5, seed=1), weights(2, 5, seed=2)
    read = [weight.clone().requires_grad_() for weight in (first, second)]
    loss = sum((x @ w.T).tanh().sum() for w in read)
    assert isinstance(loss, Tensor)
    gradients = torch.autograd.grad(loss, read)
    found = gate_gradient(
        [(w.detach(), g, 1, PLACES) for w, g in zip(read, gradients, strict=True)]
    )

    gates = torch.ones(3, requires_grad=True)
    unit_of = torch.tensor([0, 1, 2, 0, 2])
    gated = sum((x * gates[unit_of] @ w.T).tanh().sum() for w in (first, second))
    assert isinstance(gated, Tensor)
    torch.testing.assert_close(found, torch.autograd.grad(gated, gates)[0])
