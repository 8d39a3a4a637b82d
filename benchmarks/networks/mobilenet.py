"""A network of inverted residuals with depthwise convolutions and ReLU6, for 32x32 images.

After Sandler et al., "MobileNetV2", CVPR 2018 (arXiv 1801.04381, section 3), with fewer and
narrower blocks and less down-sampling, as small images want it.

Input: float32 ``(N, 3, 32, 32)``, RGB / 255, normalised. Output: logits ``(N, classes)``.
"""

from torch import Tensor, nn

# Per group of blocks: expansion, output channels, blocks, stride of the first.
GROUPS = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 40, 3, 2), (4, 80, 3, 2), (4, 112, 1, 1))


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution without bias and its BatchNorm."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        expand = [*conv(inputs, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        filters = [*conv(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()]
        self.body = nn.Sequential(*expand, *filters, *conv(hidden, outputs, 1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class MobileNet(nn.Module):
    """A stem, the groups of blocks, a wide 1x1 convolution, pooling and a classifier."""

    def __init__(self, stem: int = 16, last: int = 320, classes: int = 10):
        super().__init__()
        blocks, width = [], stem
        for expansion, outputs, count, stride in GROUPS:
            for index in range(count):
                blocks.append(
                    InvertedResidual(width, outputs, stride if index == 0 else 1, expansion)
                )
                width = outputs
        self.features = nn.Sequential(
            *conv(3, stem, 3), nn.ReLU6(), *blocks, *conv(width, last, 1), nn.ReLU6()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


def mobilenet() -> nn.Module:
    """Return the network of the benchmarks, 0.3 M parameters."""
    return MobileNet()
