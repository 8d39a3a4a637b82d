"""The small network that turns latent vectors into images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

LATENT = 256
_WIDTH = 128
_SLOPE = 0.2
# A quarter of the image is where the first layer starts; beyond this, its weights outgrow memory.
_LARGEST_START = 64


class Generator(nn.Module):
    """From latents ``(N, 256)`` to images ``(N, channels, height, width)``; always trains.

    Layers and widths are those of the released code of Jeon et al., CVPR 2023, arXiv 2212.04780
    (GENIE-D). It ends in a batch norm without weights, so a batch has mean 0 and deviation 1 in
    every channel, and nothing clips it to the range of real pixels. What is added here: ``shift``
    and ``scale``, one a channel, learned like the rest. They start at 0 and 1, and find the inputs
    of networks that take pixels in 0..1 or -1..1.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)
        self.middle = tuple(max(1, size // 2) for size in self.size)
        start = [min(_LARGEST_START, max(1, size // 4)) for size in self.size]
        self.expand = nn.Sequential(
            nn.Linear(LATENT, _WIDTH * start[0] * start[1]),
            nn.Unflatten(1, (_WIDTH, start[0], start[1])),
            nn.BatchNorm2d(_WIDTH),
        )
        self.refine = nn.Sequential(
            nn.Conv2d(_WIDTH, _WIDTH // 2, 3, padding=1),
            nn.BatchNorm2d(_WIDTH // 2),
            nn.LeakyReLU(_SLOPE),
        )
        self.paint = nn.Sequential(
            nn.Conv2d(_WIDTH // 2, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def layers(self) -> list[nn.Parameter]:
        """Return what is learned, apart from ``shift`` and ``scale``."""
        return [p for part in (self.expand, self.refine, self.paint) for p in part.parameters()]

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return one image for each latent vector: as the network takes it, and standardised."""
        x = interpolate(self.expand(latents), size=self.middle, mode="nearest")
        standard = self.paint(interpolate(self.refine(x), size=self.size, mode="nearest"))
        return standard * self.scale + self.shift, standard
