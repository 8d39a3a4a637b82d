import pytest
import torch

from edgekd.algorithms.unrolled_step import unrolled_step


def test_a_step_and_its_derivative_by_hand() -> None:
    # loss = a w^2 at w = 3, rate 0.1: w - 0.2 a w, whose derivative in a is -0.6.
    weight = torch.tensor(3.0, requires_grad=True)
    unused = torch.tensor(1.0, requires_grad=True)
    factor = torch.tensor(2.0, requires_grad=True)
    found = unrolled_step({"w": weight, "u": unused}, factor * weight.square(), 0.1)
    assert found["w"].item() == pytest.approx(1.8)
    assert found["u"] is unused
    found["w"].backward()
    assert factor.grad is not None and factor.grad.item() == pytest.approx(-0.6)
