"""Cross-layer equalisation: the factors that make the channels of two layers equally wide."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-12


def output_widths(weight: Tensor) -> Tensor:
    """Return the largest magnitude of each output channel's weights, axis 0 of ``weight``."""
    return weight.abs().flatten(1).amax(1)


def input_widths(weight: Tensor, groups: int) -> Tensor:
    """Return the largest magnitude of each input channel's weights.

    ``weight`` is ``(O, I / groups, ..)`` with the outputs of a group behind each other, as in
    convolutions; a depthwise convolution has as many groups as inputs.
    """
    grouped = weight.abs().flatten(2).amax(2) if weight.ndim > 2 else weight.abs()
    return grouped.reshape(groups, -1, grouped.shape[1]).amax(1).flatten()


def scale_inputs(weight: Tensor, factors: Tensor, groups: int) -> Tensor:
    """Return ``weight`` with the weights of every input channel times its factor."""
    outputs, per_group = weight.shape[:2]
    each = factors.reshape(groups, 1, per_group).expand(-1, outputs // groups, -1)
    return weight * each.reshape(outputs, per_group, *[1] * (weight.ndim - 2))


def equalizing_factors(first: Tensor, second: Tensor) -> Tensor:
    """Return s with ``first / s == second * s``, the widths that the two layers give a channel.

    Dividing a channel of the first layer by s and multiplying it by s in the second changes
    nothing where only positively homogeneous operations lie between. (Nagel et al., "Data-Free
    Quantization Through Weight Equalization and Bias Correction", ICCV 2019, arXiv 1906.04721,
    section 4.1, eq. 9-11.) A channel of zeros keeps the factor 1.
    """
    usable = (first > _TINY) & (second > _TINY)
    return torch.where(usable, (first / second.clamp_min(_TINY)).sqrt(), torch.ones_like(first))
