"""Swing convolution: a random shift in front of strided convolutions."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from networks import Mobile, ResNet, build, samples, trace
from torch import nn

from edgekd.graph.program import clone
from edgekd.synthesis.swing import CENTRE, Swing, swing_convolutions

convolutions = st.builds(
    nn.Conv2d,
    in_channels=st.just(2),
    out_channels=st.just(3),
    kernel_size=st.integers(1, 3),
    stride=st.integers(1, 3) | st.tuples(st.integers(1, 2), st.integers(1, 3)),
    padding=st.integers(0, 2) | st.just("valid"),
    dilation=st.integers(1, 2),
)


@settings(deadline=None, max_examples=20)
@given(convolution=convolutions, height=st.integers(5, 8), width=st.integers(5, 8))
def test_the_centre_is_the_original_convolution(
    convolution: nn.Conv2d, height: int, width: int
) -> None:
    x = samples(2, 2, height, width)
    graph, _ = trace(convolution.eval(), x)
    swung = clone(graph)
    count = swing_convolutions(swung, torch.Generator(), offset=CENTRE)
    assert count == (convolution.stride != (1, 1))
    assert torch.equal(swung(x), graph(x))


@given(y=st.integers(0, 2), x=st.integers(0, 2))
def test_an_offset_moves_the_picture_and_reflects_the_border(y: int, x: int) -> None:
    image = samples(1, 1, 4, 5)
    shifted = Swing(torch.Generator(), (y, x))(image)
    rows = [abs(row) if row < 4 else 2 for row in range(y - 1, y + 3)]
    columns = [abs(column) if column < 5 else 3 for column in range(x - 1, x + 4)]
    assert torch.equal(shifted, image[:, :, rows][:, :, :, columns])


def test_every_call_draws_from_the_given_source() -> None:
    image = samples(1, 1, 6, 6)

    def draws(seed: int) -> list[torch.Tensor]:
        swing = Swing(torch.Generator().manual_seed(seed))
        return [swing(image) for _ in range(20)]

    assert all(map(torch.equal, draws(1), draws(1)))
    assert not all(map(torch.equal, draws(1), draws(2)))
    assert len({tuple(picture.flatten().tolist()) for picture in draws(1)}) > 3


@pytest.mark.parametrize(("make", "strided"), [(ResNet, 1), (Mobile, 1)])
def test_only_strided_convolutions_swing(make: type[nn.Module], strided: int) -> None:
    graph, _ = trace(build(make), samples(2, 3, 8, 8))
    assert swing_convolutions(graph, torch.Generator().manual_seed(0)) == strided
    assert graph(samples(2, 3, 8, 8)).shape == (2, 5)


def test_what_is_too_small_to_reflect_stays() -> None:
    point = samples(2, 3, 1, 1)
    assert torch.equal(Swing(torch.Generator())(point), point)
