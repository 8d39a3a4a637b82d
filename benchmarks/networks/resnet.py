"""ResNet-18 for images of 224x224, to time on GPUs: CIFAR networks are too small to fill one.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385, section 4.1
and table 1), with its shortcuts of 1x1 convolutions (option B).

Input: float32 ``(N, 3, 224, 224)``. Output: logits ``(N, 1000)``. It is not trained here.
"""

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.shortcut(x))


class ResNet18(nn.Module):
    """A 7x7 stem, eight blocks, pooling and a classifier."""

    def __init__(self, classes: int = 1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.pool1 = nn.MaxPool2d(3, 2, 1)
        blocks, width = [], WIDTHS[0]
        for outputs in WIDTHS:
            blocks += [Block(width, outputs, outputs // width), Block(outputs, outputs, 1)]
            width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool2 = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.pool2(self.blocks(x)).flatten(1))


def resnet18() -> nn.Module:
    """Return the network with weights from a fixed seed, 11.7 M parameters."""
    torch.manual_seed(0)
    return ResNet18()
