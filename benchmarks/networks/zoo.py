"""Small forms of well-known networks, for questions of latency: weights are random.

Each follows the paper named at it, with fewer or narrower blocks. All take one float32 input.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks.mobilenet import MobileNet, mobilenet
from benchmarks.networks.vit import VisionTransformer, vit


def conv(
    inputs: int,
    outputs: int,
    size: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: type | None = nn.ReLU,
) -> nn.Sequential:
    """Return a convolution, its BatchNorm and an activation."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), *([act()] if act else []))


def head(width: int, classes: int) -> nn.Sequential:
    """Return pooling and a classifier."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut, padded where the width grows (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int, padded: bool):
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3, act=None)
        )
        self.stride, self.grows = stride, outputs - inputs
        projects = (stride > 1 or inputs != outputs) and not padded
        self.project = conv(inputs, outputs, 1, stride, act=None) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.project is not None:
            x = self.project(x)
        elif self.grows:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.grows // 2, self.grows // 2))
        return F.relu(x + y)


def resnet_cifar(depth: int) -> nn.Module:
    """He et al., CVPR 2016, section 4.2."""
    blocks, inputs = [], 16
    for stage, width in enumerate((16, 32, 64)):
        for index in range((depth - 2) // 6):
            blocks.append(Basic(inputs, width, 2 if stage and not index else 1, padded=True))
            inputs = width
    return nn.Sequential(conv(3, 16), *blocks, head(64, 10))


def resnet18() -> nn.Module:
    """He et al., CVPR 2016, table 1."""
    blocks, inputs = [], 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for index in range(2):
            blocks.append(Basic(inputs, width, 2 if stage and not index else 1, padded=False))
            inputs = width
    stem = nn.Sequential(conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(stem, *blocks, head(512, 1000))


def vgg() -> nn.Module:
    """Simonyan and Zisserman, ICLR 2015, at half the width."""
    layers, inputs = [], 3
    for width in (32, 0, 64, 0, 128, 128, 0, 256, 256, 0):
        layers.append(conv(inputs, width) if width else nn.MaxPool2d(2))
        inputs = width or inputs
    classifier = (nn.Flatten(), nn.Linear(256 * 16, 512), nn.ReLU(), nn.Linear(512, 100))
    return nn.Sequential(*layers, *classifier)


class Fire(nn.Module):
    """Squeeze, then 1x1 beside 3x3 (Iandola et al., arXiv 1602.07360)."""

    def __init__(self, inputs: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.one = nn.Conv2d(squeezed, expanded, 1)
        self.three = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


def squeezenet() -> nn.Module:
    """Iandola et al., arXiv 1602.07360, version 1.1."""
    pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=False)  # noqa: E731
    fires = [Fire(64, 16, 64), Fire(128, 16, 64), pool(), Fire(128, 32, 128), Fire(256, 32, 128)]
    fires += [pool(), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256)]
    stem = (nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool())
    last = (nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*stem, *fires, *last)


class DenseLayer(nn.Module):
    """Add ``growth`` channels to all before (Huang et al., CVPR 2017)."""

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.norm, self.squeeze = nn.BatchNorm2d(inputs), conv(inputs, 4 * growth, 1)
        self.grow = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.grow(self.squeeze(F.relu(self.norm(x))))], 1)


def densenet() -> nn.Module:
    """Huang et al., CVPR 2017: three blocks of six layers, growth 12."""
    layers: list[nn.Module] = [conv(3, 24)]
    width = 24
    for block in range(3):
        for _ in range(6):
            layers.append(DenseLayer(width, 12))
            width += 12
        if block < 2:
            layers += [conv(width, width // 2, 1), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), head(width, 10))


class UNet(nn.Module):
    """Three halvings and back, joined at each size (Ronneberger et al., MICCAI 2015)."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)):
        super().__init__()
        pairs = list(zip((3, *widths), widths, strict=False))
        self.down = nn.ModuleList(nn.Sequential(conv(a, b), conv(b, b)) for a, b in pairs)
        back = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.Sequential(conv(a + b, b), conv(b, b)) for a, b in back)
        self.last = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for index, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if index else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1))
        return self.last(x)


class Shuffle(nn.Module):
    """Half of the channels pass, then all are shuffled (Ma et al., ECCV 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        half, self.stride = outputs // 2, stride
        source = inputs if stride > 1 else inputs // 2
        self.right = nn.Sequential(
            conv(source, half, 1), conv(half, half, 3, stride, half, act=None), conv(half, half, 1)
        )
        left = (conv(inputs, inputs, 3, stride, inputs, act=None), conv(inputs, half, 1))
        self.left = nn.Sequential(*left) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.left is not None:
            x = torch.cat([self.left(x), self.right(x)], 1)
        else:
            left, right = x.chunk(2, 1)
            x = torch.cat([left, self.right(right)], 1)
        n, channels, height, width = x.shape
        return x.reshape(n, 2, channels // 2, height, width).transpose(1, 2).flatten(1, 2)


def shufflenet() -> nn.Module:
    """Ma et al., ECCV 2018, "1x"."""
    layers: list[nn.Module] = [conv(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 24
    for width, count in ((116, 4), (232, 8), (464, 4)):
        for index in range(count):
            layers.append(Shuffle(inputs, width, 1 if index else 2))
            inputs = width
    return nn.Sequential(*layers, conv(inputs, 1024, 1), head(1024, 1000))


class MBConv(nn.Module):
    """An inverted residual with a gate by channel (Tan and Le, ICML 2019)."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expand = conv(inputs, hidden, 1, act=nn.SiLU) if expansion > 1 else nn.Identity()
        self.filter = conv(hidden, hidden, size, stride, hidden, act=nn.SiLU)
        self.down, self.up = nn.Conv2d(hidden, inputs // 4, 1), nn.Conv2d(inputs // 4, hidden, 1)
        self.project = conv(hidden, outputs, 1, act=None)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.filter(self.expand(x))
        gate = torch.sigmoid(self.up(F.silu(self.down(y.mean((2, 3), keepdim=True)))))
        y = self.project(y * gate)
        return x + y if self.shortcut else y


def efficientnet() -> nn.Module:
    """Tan and Le, ICML 2019: B0 with about half of its blocks."""
    rows = (
        (16, 1, 3, 1, 1),
        (24, 2, 3, 2, 6),
        (40, 2, 5, 2, 6),
        (80, 2, 3, 2, 6),
        (112, 1, 5, 1, 6),
    )
    layers: list[nn.Module] = [conv(3, 32, 3, 2, act=nn.SiLU)]
    inputs = 32
    for width, count, size, stride, expansion in (*rows, (192, 2, 5, 2, 6)):
        for index in range(count):
            layers.append(MBConv(inputs, width, size, 1 if index else stride, expansion))
            inputs = width
    return nn.Sequential(*layers, conv(inputs, 640, 1, act=nn.SiLU), head(640, 1000))


class MixerLayer(nn.Module):
    """Perceptrons over tokens, then over features (Tolstikhin et al., NeurIPS 2021)."""

    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        make = lambda n, h: nn.Sequential(nn.Linear(n, h), nn.GELU(), nn.Linear(h, n))  # noqa: E731
        self.tokens, self.features = make(tokens, width // 2), make(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.features(self.norm2(x))


class Mixer(nn.Module):
    """Eight layers of width 256 over 49 patches of 16x16 pixels."""

    def __init__(self, width: int = 256, depth: int = 8):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.layers = nn.Sequential(*(MixerLayer(49, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 100)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.layers(x)).mean(1))


def keywords() -> nn.Module:
    """Zhang et al., arXiv 1711.07128: depthwise separable, for 49x10 spectrograms of speech."""
    layers: list[nn.Module] = [conv(1, 64, 5, 2)]
    for _ in range(4):
        layers += [conv(64, 64, 3, 1, 64), conv(64, 64, 1)]
    return nn.Sequential(*layers, head(64, 12))


def autoencoder() -> nn.Module:
    """The anomaly detector of MLPerf Tiny (Banbury et al., NeurIPS 2021): dense layers only."""
    widths = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(128, 640))


def vit_tiny() -> nn.Module:
    """Touvron et al., ICML 2021, "DeiT-Ti" at half the depth, for 224 pixels."""
    return VisionTransformer(192, 6, 3, 768, patch=16, image=224, classes=1000)


def mobilenet_wide() -> nn.Module:
    """The MobileNet of the benchmarks with ImageNet's number of classes."""
    return MobileNet(stem=32, last=1280, classes=1000)


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-20, 32 px": (lambda: resnet_cifar(20), (3, 32, 32)),
    "ResNet-56, 32 px": (lambda: resnet_cifar(56), (3, 32, 32)),
    "ResNet-18, 112 px": (resnet18, (3, 112, 112)),
    "ResNet-18, 224 px": (resnet18, (3, 224, 224)),
    "VGG, 64 px": (vgg, (3, 64, 64)),
    "SqueezeNet, 128 px": (squeezenet, (3, 128, 128)),
    "DenseNet, 32 px": (densenet, (3, 32, 32)),
    "U-Net, 96 px": (UNet, (3, 96, 96)),
    "MobileNetV2, 32 px": (mobilenet, (3, 32, 32)),
    "MobileNetV2 wide, 96 px": (mobilenet_wide, (3, 96, 96)),
    "ShuffleNetV2, 128 px": (shufflenet, (3, 128, 128)),
    "EfficientNet, 112 px": (efficientnet, (3, 112, 112)),
    "ViT, 32 px": (vit, (3, 32, 32)),
    "ViT tiny, 224 px": (vit_tiny, (3, 224, 224)),
    "MLP-Mixer, 112 px": (Mixer, (3, 112, 112)),
    "Keywords, 49x10": (keywords, (1, 49, 10)),
    "Autoencoder, 640": (autoencoder, (640,)),
}
