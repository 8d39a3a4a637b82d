"""The loss that images are distilled with."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from edgekd.algorithms.statistics_loss import (
    batch_norm_loss,
    channel_statistics,
    deviation,
    image_loss,
)


@given(
    shape=st.lists(st.integers(2, 5), min_size=2, max_size=4),
    seed=st.integers(0, 100),
    scale=st.floats(0, 10),
)
def test_inputs_with_the_stored_statistics_have_no_loss(
    shape: list[int], seed: int, scale: float
) -> None:
    x = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](
        shape[1], momentum=1.0
    )
    norm(x)  # stores exactly the statistics of x
    assert norm.running_mean is not None and norm.running_var is not None
    stored = [(norm.running_mean, deviation(norm.running_var))]
    assert float(batch_norm_loss([channel_statistics(x)], stored)) < 1e-9 * (1 + scale**2)


def test_the_loss_is_the_squared_distance_of_means_and_deviations() -> None:
    found = [(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0])), (torch.zeros(1), torch.ones(1))]
    stored = [(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0])), (torch.ones(1), torch.ones(1))]
    assert float(batch_norm_loss(found, stored)) == pytest.approx((0 + 4 + 1 + 0) / 2 + 1)


def test_a_constant_channel_has_a_finite_gradient() -> None:
    x = torch.zeros(4, 2, 3, 3, requires_grad=True)
    batch_norm_loss([channel_statistics(x)], [(torch.ones(2), torch.ones(2))]).backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())
    assert float(x.grad.abs().sum()) > 0


def test_every_single_image_counts() -> None:
    image = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    image = (image - image.mean((1, 2), keepdim=True)) / image.std((1, 2), keepdim=True)
    assert float(image_loss(image[None])) < 1e-9
    # A dark and a bright image: the batch has mean 0, but neither image has.
    pair = torch.stack([image - 1, image + 1])
    assert float(image_loss(pair)) == pytest.approx(3.0, rel=1e-4)
    assert float(image_loss(torch.stack([image, 3 * image]))) == pytest.approx(3 * 4 / 2, rel=1e-4)
