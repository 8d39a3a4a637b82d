from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import samples

from edgekd.algorithms.im2col import (
    convolution_columns,
    linear_columns,
    weight_from_matrices,
    weight_matrices,
)


@pytest.mark.parametrize(
    ("inputs", "weight", "groups", "settings"),
    [
        ((2, 6, 9, 8), (4, 6, 3, 3), 1, {"stride": 2, "padding": 1, "dilation": 1}),
        ((2, 6, 9, 8), (4, 3, 3, 2), 2, {"stride": 1, "padding": 0, "dilation": 2}),
        ((2, 6, 9, 8), (6, 1, 1, 1), 6, {"stride": 1, "padding": 0, "dilation": 1}),
        ((2, 6, 20), (4, 3, 5), 2, {"stride": 3, "padding": 2, "dilation": 1}),
    ],
)
def test_a_convolution_is_a_product(
    inputs: tuple[int, ...], weight: tuple[int, ...], groups: int, settings: dict[str, Any]
) -> None:
    x, w, axes = samples(*inputs), samples(*weight, seed=1), len(weight) - 2
    convolve = F.conv2d if axes == 2 else F.conv1d

    lists = {name: [value] * axes for name, value in settings.items()}
    columns = convolution_columns(x, weight[2:], groups=groups, **lists)
    found = columns @ weight_matrices(w, groups).transpose(1, 2)

    expected = convolve(x, w, groups=groups, **settings).movedim(1, -1)
    split = expected.reshape(-1, groups, weight[0] // groups).transpose(0, 1)
    assert torch.allclose(found, split, atol=1e-4)


def test_weights_come_back() -> None:
    w = samples(4, 3, 2, 5)
    assert torch.equal(weight_from_matrices(weight_matrices(w, 2), w.shape), w)


def test_a_linear_layer_on_tokens_is_a_product() -> None:
    x, w = samples(2, 7, 6), samples(4, 6, seed=1)
    found = linear_columns(x) @ weight_matrices(w).transpose(1, 2)
    assert torch.allclose(found[0], (x @ w.T).reshape(-1, 4), atol=1e-6)
