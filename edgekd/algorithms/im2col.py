"""Layers as matrices: a convolution's weight and inputs, written as those of ``y = W x``."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def weight_matrices(weight: Tensor, groups: int = 1) -> Tensor:
    """Return ``(groups, O / groups, C)``: for each group a row for each of its outputs.

    ``weight`` is ``(O, I, ..)``, I the inputs of one group. Columns have the input channels of one
    place of the kernel behind each other, so that groups along the inputs are columns in a row.
    """
    rows = weight.movedim(1, -1).flatten(1)
    return rows.reshape(groups, -1, rows.shape[1])


def weight_from_matrices(matrices: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo ``weight_matrices``, given the weight's ``shape``."""
    outputs, inputs, *kernel = shape
    return matrices.reshape(outputs, *kernel, inputs).movedim(-1, 1).contiguous()


def convolution_columns(
    x: Tensor,
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """Return ``(groups, N * places, C)``: what each output value is computed from.

    ``x`` is ``(N, I, H, W)`` or, with all settings of length 1, ``(N, I, L)``.
    """
    if x.ndim == 3:  # a signal is an image of height 1
        x = x.unsqueeze(2)
        kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
        padding = (0, *padding)
    unfolded = F.unfold(x, tuple(kernel), tuple(dilation), tuple(padding), tuple(stride))
    places = kernel[0] * kernel[1]
    split = unfolded.reshape(len(x), groups, -1, places, unfolded.shape[-1])
    return split.permute(1, 0, 4, 3, 2).reshape(groups, -1, split.shape[2] * places)


def linear_columns(x: Tensor) -> Tensor:
    """Return ``(1, rows, I)`` for an input ``(.., I)``."""
    return x.reshape(1, -1, x.shape[-1])
