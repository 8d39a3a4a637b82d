"""More small forms of well-known networks, written when the predictor was finished.

They were not looked at while it was made, so its error on them is a fair one. Weights are random.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks.zoo import Basic, conv, head


class Inception(nn.Module):
    """Four branches side by side (Szegedy et al., CVPR 2015, figure 2b)."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int]):
        super().__init__()
        one, three, five, pool = widths
        self.branches = nn.ModuleList(
            [
                conv(inputs, one, 1),
                nn.Sequential(conv(inputs, three // 2, 1), conv(three // 2, three)),
                nn.Sequential(conv(inputs, five // 4, 1), conv(five // 4, five, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(inputs, pool, 1)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def googlenet() -> nn.Module:
    """Szegedy et al., CVPR 2015, with five of its nine modules."""
    return nn.Sequential(
        conv(3, 48, 7, 2),
        nn.MaxPool2d(3, 2, 1),
        conv(48, 96),
        nn.MaxPool2d(3, 2, 1),
        Inception(96, (48, 64, 16, 16)),
        Inception(144, (64, 96, 32, 32)),
        nn.MaxPool2d(3, 2, 1),
        Inception(224, (96, 104, 24, 32)),
        Inception(256, (80, 112, 32, 32)),
        Inception(256, (128, 160, 64, 64)),
        head(416, 100),
    )


class TinyYolo(nn.Module):
    """A detector with two scales (Redmon and Farhadi, "YOLOv3", 2018, its tiny form)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 16, 32, 64, 128]
        stages = []
        for inputs, outputs in pairwise(widths):
            stages += [self.leaky(inputs, outputs), nn.MaxPool2d(2)]
        self.stem = nn.Sequential(*stages[:-1])
        self.deep = nn.Sequential(nn.MaxPool2d(2), self.leaky(128, 256), self.leaky(256, 128, 1))
        self.up = self.leaky(128, 64, 1)
        self.coarse = nn.Sequential(self.leaky(128, 256), nn.Conv2d(256, 75, 1))
        self.fine = nn.Sequential(self.leaky(192, 128), nn.Conv2d(128, 75, 1))

    @staticmethod
    def leaky(inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
        return nn.Sequential(conv(inputs, outputs, size, act=None), nn.LeakyReLU(0.1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        near = self.stem(x)
        far = self.deep(near)
        wide = F.interpolate(self.up(far), scale_factor=2.0)
        return self.coarse(far), self.fine(torch.cat([wide, near], 1))


def wide_resnet() -> nn.Module:
    """Zagoruyko and Komodakis, BMVC 2016: depth 16, four times as wide."""
    blocks: list[nn.Module] = [conv(3, 16)]
    inputs = 16
    for stage, width in enumerate((64, 128, 256)):
        for number in range(2):
            stride = 2 if stage and not number else 1
            blocks.append(Basic(inputs, width, stride, padded=False))
            inputs = width
    return nn.Sequential(*blocks, head(256, 10))


class ConvNextBlock(nn.Module):
    """Liu et al., CVPR 2022, figure 4."""

    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(self.mix(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    """Liu et al., CVPR 2022: three stages of the smallest, half as wide."""
    return nn.Sequential(
        nn.Conv2d(3, 48, 4, 4),
        *(ConvNextBlock(48) for _ in range(2)),
        nn.Conv2d(48, 96, 2, 2),
        *(ConvNextBlock(96) for _ in range(2)),
        nn.Conv2d(96, 192, 2, 2),
        *(ConvNextBlock(192) for _ in range(4)),
        head(192, 100),
    )


UNSEEN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "GoogLeNet, 128 px": (googlenet, (3, 128, 128)),
    "Tiny YOLO, 160 px": (TinyYolo, (3, 160, 160)),
    "Wide ResNet, 32 px": (wide_resnet, (3, 32, 32)),
    "ConvNeXt, 112 px": (convnext, (3, 112, 112)),
}
