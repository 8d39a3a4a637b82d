import pytest
import torch
from networks import samples

from edgekd.algorithms.rounding import (
    annealed_beta,
    initial_logits,
    rounding_regularizer,
    soft_quantize,
    soft_rounding,
)

BITS = pytest.mark.parametrize(("qmin", "qmax"), [(-127, 127), (-7, 7)])


@BITS
def test_at_first_nothing_is_rounded(qmin: int, qmax: int) -> None:
    weight = samples(8, 50)
    scale = weight.abs().amax(1, keepdim=True) / qmax
    base = (weight / scale).floor()
    logits = initial_logits(weight / scale - base)
    found = soft_quantize(base, logits, scale, qmin, qmax)
    assert torch.allclose(found, weight, atol=1e-5)


def test_rounding_reaches_both_ends_and_turns_at_a_half() -> None:
    h = soft_rounding(torch.tensor([-5.0, 0.0, 5.0]))
    assert h[0] == 0 and h[1] == pytest.approx(0.5) and h[2] == 1


def test_codes_do_not_leave_the_grid() -> None:
    base, logits = torch.tensor([7.0, -9.0]), torch.full((2,), 5.0)
    assert soft_quantize(base, logits, torch.ones(2), -7, 7).tolist() == [7.0, -7.0]


@pytest.mark.parametrize("beta", [20.0, 8.0, 2.0])
def test_the_regulariser_falls_on_the_way_to_either_end(beta: float) -> None:
    logits = torch.linspace(0, 2.3, 30)
    found = [float(rounding_regularizer(sign * v, beta)) for sign in (1, -1) for v in logits]
    up, down = found[:30], found[30:]
    assert up[0] == pytest.approx(1.0) and up == sorted(up, reverse=True)
    assert down == pytest.approx(up, rel=1e-4)
    assert rounding_regularizer(torch.tensor([-5.0, 5.0]), beta) == 0


def test_a_smaller_beta_pushes_undecided_weights_harder() -> None:
    slopes = []
    for beta in (20.0, 2.0):
        logits = torch.tensor([0.3], requires_grad=True)
        rounding_regularizer(logits, beta).backward()
        assert logits.grad is not None
        slopes.append(abs(float(logits.grad)))
    assert slopes[0] < slopes[1]


def test_beta_waits_then_falls() -> None:
    found = [annealed_beta(step, 100) for step in range(100)]
    assert found[:20] == [None] * 20 and found[20] == 20.0
    falling = [beta for beta in found if beta is not None]
    assert falling == sorted(falling, reverse=True) and 2.0 < falling[-1] < 2.3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_schedules_warm_up_too(steps: int) -> None:
    found = [annealed_beta(step, steps) for step in range(steps)]
    assert found[0] is None
    assert all(beta is not None and 2.0 <= beta <= 20.0 for beta in found[1:])
