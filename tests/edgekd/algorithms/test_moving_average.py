import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from edgekd.algorithms.moving_average import moving_average, warm_decay


def test_the_decay_rises_to_its_limit() -> None:
    assert [warm_decay(0.9, step) for step in (1, 8, 71, 80, 10**6)] == pytest.approx(
        [2 / 11, 0.5, 72 / 81, 0.9, 0.9]
    )


def test_the_formula_by_hand() -> None:
    average = [torch.tensor([1.0])]
    moving_average(0.5)(average, [torch.tensor([12.0])], 1)  # 1 - 2/11 of the way
    assert average[0].item() == pytest.approx(10)
    moving_average(0.5)(average, [torch.tensor([20.0])], torch.tensor(100))  # half of it
    assert average[0].item() == pytest.approx(15)


@given(st.floats(0.01, 0.9999), st.lists(st.floats(-10, 10), min_size=1, max_size=50))
def test_the_average_stays_between_the_weights_seen(decay: float, seen: list[float]) -> None:
    model = nn.Linear(1, 1, bias=False)
    average = AveragedModel(model, multi_avg_fn=moving_average(decay))
    for value in seen:
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
    assert min(seen) - 1e-5 <= average.module.weight.item() <= max(seen) + 1e-5


def test_a_short_training_is_not_stuck_at_its_start() -> None:
    """After 100 steps along a ramp from 0 to 1 a plain decay of 0.999 is at 0.05."""
    model = nn.Linear(1, 1, bias=False)
    average = AveragedModel(model, multi_avg_fn=moving_average(0.999))
    for step in range(101):
        nn.init.constant_(model.weight, step / 100)
        average.update_parameters(model)
    assert 0.85 < average.module.weight.item() < 0.95
