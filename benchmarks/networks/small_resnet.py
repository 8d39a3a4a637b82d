"""Students for the CIFAR ResNets: half as wide, with parameter-free shortcuts as these have.

Input ``(N, 3, 32, 32)``, output logits ``(N, 10)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions and an identity shortcut, padded with zeros where channels are new."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.pad = stride, (width - channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, width, H / stride, W / stride)``."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.pad:
            x = x[:, :, :: self.stride, :: self.stride]
            x = nn.functional.pad(x, (0, 0, 0, 0, self.pad, self.pad))
        return torch.relu(x + y)


class SmallResNet(nn.Module):
    """A stem, three stages of ``depth`` blocks with these widths, pooling and a classifier."""

    def __init__(self, depth: int, widths: tuple[int, int, int], classes: int = 10) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, depth, 1)
        self.layer2 = _stage(first, second, depth, 2)
        self.layer3 = _stage(second, third, depth, 2)
        self.linear = nn.Linear(third, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, classes)``."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def half_resnet20() -> nn.Module:
    """Return a ResNet-20 of 8, 16 and 32 channels: 68 thousand parameters."""
    return SmallResNet(3, (8, 16, 32))


def _stage(channels: int, width: int, depth: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        Block(channels, width, stride), *(Block(width, width, 1) for _ in range(depth - 1))
    )
