"""How far images are from the data that a network was trained on, as its BatchNorm layers saw it.

Jeon et al., "Genie: Show Me the Data for Quantization", CVPR 2023, arXiv 2212.04780: the
loss that GENIE-D distils images with. The constants are those of the authors' released code.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Inside the square root, on both sides: a channel that is constant has a finite gradient, and
# inputs with exactly the stored statistics have a loss of exactly 0.
EPSILON = 1e-6

Statistics = tuple[Tensor, Tensor]


def channel_statistics(x: Tensor) -> Statistics:
    """Return mean and standard deviation of every channel, each ``(C,)``.

    Args:
        x: ``(N, C)`` or ``(N, C, ...)``, at least two values a channel. The variance is the
            unbiased one, as in the running statistics of a batch norm.
    """
    axes = [axis for axis in range(x.ndim) if axis != 1]
    return x.mean(axes), deviation(x.var(axes))


def deviation(variance: Tensor) -> Tensor:
    """Return the standard deviation as the loss compares it."""
    return (variance + EPSILON).sqrt()


def batch_norm_loss(found: list[Statistics], stored: list[Statistics]) -> Tensor:
    """Return the squared distance of means and deviations: mean over channels, sum over layers.

    Every layer has weight 1, and so have means and deviations. Scalar.
    """
    terms = [
        (mean - mean_0).square().mean() + (std - std_0).square().mean()
        for (mean, std), (mean_0, std_0) in zip(found, stored, strict=True)
    ]
    return torch.stack(terms).sum()


def image_loss(images: Tensor) -> Tensor:
    """Return how far each image is from mean 0 and deviation 1 in every channel. Scalar.

    Args:
        images: ``(N, C, H, W)``, standardised channel by channel over the batch.

    The squares are summed over the channels and averaged over the images. It keeps every single
    image in range, where the batch norms only see the batch as a whole.
    """
    mean = images.mean((2, 3))
    std = deviation(images.var((2, 3)))
    return (mean.square() + (1.0 - std).square()).sum(1).mean()
