"""Blocks of the calibration networks: how layers follow each other in what people deploy."""

from __future__ import annotations

import math
from random import Random

import numpy as np

from edgekd.predict.builder import Builder, Value
from edgekd.predict.layers import (
    activation,
    add,
    concat,
    conv,
    global_pool,
    layer_norm,
    linear,
    pool,
    product,
    reshape,
    resize,
    transpose,
)


def image_block(b: Builder, x: Value, width: int, stride: int, rng: Random) -> Value:
    """Add one block of a convolutional network that ends with about ``width`` channels."""
    blocks = (plain, residual, bottleneck, inverted, fire, dense, grouped, pooled, shuffled)
    block = rng.choices(blocks, (4, 4, 2, 5, 1, 2, 1, 1, 2))[0]
    return block(b, x, width, stride, rng)


def plain(b: Builder, x: Value, width: int, stride: int, rng: Random) -> Value:
    """One to three convolutions."""
    act = rng.choice(("Relu", "Relu", "LeakyRelu", "SiLU", "Relu6"))
    for index in range(rng.randint(1, 3)):
        kernel = rng.choice((1, 3, 3, 3, 5, 7))
        x = conv(b, x, width, kernel, stride if index == 0 else 1, act=act)
    return x


def residual(b: Builder, x: Value, width: int, stride: int, rng: Random) -> Value:
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016)."""
    shortcut = x
    if stride > 1 or x.shape[1] != width:
        shortcut = conv(b, x, width, 1, stride, act="")
    y = conv(b, x, width, 3, stride)
    return add(b, conv(b, y, width, 3, act=""), shortcut, rng.choice(("Relu", "Relu", "")))


def bottleneck(b: Builder, x: Value, width: int, stride: int, rng: Random) -> Value:
    """1x1, 3x3, 1x1 and a shortcut (He et al., CVPR 2016)."""
    shortcut = x
    if stride > 1 or x.shape[1] != width:
        shortcut = conv(b, x, width, 1, stride, act="")
    narrow = max(8, width // rng.choice((2, 4)))
    y = conv(b, x, narrow)
    y = conv(b, y, narrow, 3, stride)
    return add(b, conv(b, y, width, act=""), shortcut, "Relu")


def inverted(b: Builder, x: Value, width: int, stride: int, rng: Random) -> Value:
    """Expand, filter each channel, project (Sandler et al., CVPR 2018), perhaps with a gate."""
    act = rng.choice(("Relu6", "Relu", "HardSwish", "SiLU"))
    hidden = x.shape[1] * rng.choice((1, 2, 3, 4, 6))
    y = conv(b, x, hidden, act=act)
    y = conv(b, y, hidden, rng.choice((3, 3, 5)), stride, groups=hidden, act=act)
    if rng.random() < 0.4:
        y = gate(b, y, rng)
    y = conv(b, y, width, act="")
    return add(b, y, x) if y.shape == x.shape else y


def gate(b: Builder, x: Value, rng: Random) -> Value:
    """Scale each channel by what its mean says (Hu et al., "Squeeze-and-Excitation", CVPR 2018)."""
    channels = x.shape[1]
    y = global_pool(b, x, rng)
    y = conv(b, y, max(4, channels // rng.choice((4, 8, 16))), act=rng.choice(("Relu", "SiLU")))
    y = conv(b, y, channels, act=rng.choice(("Sigmoid", "HardSwish")))
    return b.op("Mul", [x, y], x.shape, quantize=True)


def fire(b: Builder, x: Value, width: int, stride: int, rng: Random) -> Value:
    """Squeeze, then 1x1 beside 3x3 (Iandola et al., arXiv 1602.07360)."""
    y = conv(b, x, max(8, width // rng.choice((4, 8))), stride=stride)
    half = max(8, width // 2)
    return concat(b, [conv(b, y, half), conv(b, y, half, 3)])


def dense(b: Builder, x: Value, width: int, stride: int, rng: Random) -> Value:
    """Layers that each add channels to all before (Huang et al., CVPR 2017)."""
    growth = rng.choice((8, 12, 16, 24, 32))
    for _ in range(rng.randint(2, 4)):
        y = b.op("Relu", [x], x.shape, quantize=True) if rng.random() < 0.5 else x
        y = conv(b, y, 4 * growth) if rng.random() < 0.5 else y
        x = concat(b, [x, conv(b, y, growth, 3)])
    x = conv(b, x, width)
    return pool(b, x, "AveragePool", 2, 2) if stride > 1 else x


def grouped(b: Builder, x: Value, width: int, stride: int, rng: Random) -> Value:
    """A convolution in groups between two of 1x1 (Xie et al., CVPR 2017)."""
    groups = rng.choice((2, 4, 8))
    inner = groups * max(4, width // groups)
    y = conv(b, x, inner)
    return conv(b, conv(b, y, inner, 3, stride, groups=groups), width)


def pooled(b: Builder, x: Value, width: int, stride: int, rng: Random) -> Value:
    """A convolution and a pooling."""
    x = conv(b, x, width, rng.choice((1, 3, 5)))
    kind = rng.choice(("MaxPool", "MaxPool", "AveragePool"))
    return pool(b, x, kind, rng.choice((2, 3)), stride) if stride > 1 else x


def shuffled(b: Builder, x: Value, width: int, stride: int, rng: Random) -> Value:
    """Half of the channels pass, then all are shuffled (Ma et al., ECCV 2018)."""
    width = max(16, width // 4 * 4)
    x = x if stride == 1 and x.shape[1] == width else conv(b, x, width, 1, stride)
    n, channels, height, size = x.shape
    half = channels // 2
    if rng.random() < 0.5:
        parts = b.split("Split", [x], [(n, half, height, size)] * 2, axis=1, num_outputs=2)
    else:
        ends = ((0, half), (half, channels))
        parts = [
            b.op(
                "Slice",
                [x, b.constant([start]), b.constant([end]), b.constant([1])],
                (n, half, height, size),
            )
            for start, end in ends
        ]
    left, right = (b.quantized(part) for part in parts)
    y = conv(b, right, half)
    y = conv(b, conv(b, y, half, 3, groups=half, act=""), half)
    y = concat(b, [left, y])
    y = reshape(b, y, (n, 2, half, height, size))
    return reshape(b, transpose(b, y, 0, 2, 1, 3, 4), (n, channels, height, size))


def up_and_down(b: Builder, x: Value, width: int, rng: Random) -> Value:
    """Halve the image, double it again and join (Ronneberger et al., MICCAI 2015)."""
    skips = []
    for _ in range(rng.randint(1, 3)):
        x = conv(b, conv(b, x, width, 3), width, 3)
        skips.append(x)
        x = pool(b, x, "MaxPool", 2, 2) if rng.random() < 0.5 else conv(b, x, width, 3, 2)
        width = min(2 * width, 256)
    x = conv(b, x, width, 3)
    for skip in reversed(skips):
        channels, (height, size) = skip.shape[1], skip.shape[2:]
        x = resize(b, x, 2, rng.choice(("nearest", "linear")))
        if x.shape[2:] != skip.shape[2:]:
            ends = [b.constant(n) for n in ([0, 0], [height, size], [2, 3])]
            shape = (*x.shape[:2], height, size)
            x = b.quantized(b.op("Slice", [x, *ends], shape))
        x = conv(b, concat(b, [x, skip]), channels, 3)
    return x


def attention(b: Builder, x: Value, heads: int, rng: Random) -> Value:
    """Self-attention over ``(n, tokens, width)`` (Vaswani et al., NeurIPS 2017)."""
    n, tokens, width = x.shape
    size = width // heads
    x = b.quantized(x)
    way = rng.choice(("apart", "joint", "split"))
    if way == "apart":
        parts = [linear(b, x, width) for _ in range(3)]
        q, k, v = (
            transpose(b, reshape(b, part, (n, tokens, heads, size)), 0, 2, 1, 3) for part in parts
        )
    else:
        joint = reshape(b, linear(b, x, 3 * width), (n, tokens, 3, heads, size))
        if way == "joint":
            joint = transpose(b, joint, 2, 0, 3, 1, 4)
            shapes, axis, order = [(1, n, heads, tokens, size)] * 3, 0, (0, 1, 2, 3)
        else:
            shapes, axis, order = [(n, tokens, 1, heads, size)] * 3, 2, (0, 2, 1, 3)
        parts = b.split("Split", [joint], shapes, axis=axis, num_outputs=3)
        parts = [b.op("Squeeze", [p, b.constant([axis])], _drop(p.shape, axis)) for p in parts]
        q, k, v = (transpose(b, p, *order) if way == "split" else p for p in parts)
    keys = transpose(b, k, 0, 1, 3, 2)
    scores = product(b, q, keys)
    # Small scores: a sharp softmax would have denormal numbers, which are slow.
    scale = b.constant(np.float32(0.1 / size))
    scores = b.op("Mul", [scores, scale], scores.shape)
    if rng.random() < 0.4:
        scores = b.op("Add", [scores, b.stored(n, 1, 1, tokens)], scores.shape)
    weights = b.op("Softmax", [scores], scores.shape, axis=-1)
    y = reshape(b, transpose(b, product(b, weights, v), 0, 2, 1, 3), (n, tokens, width))
    return linear(b, b.quantized(y), width)


def _drop(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def transformer_layer(b: Builder, x: Value, heads: int, rng: Random, *, before: bool) -> Value:
    """Attention and a perceptron with shortcuts, normalised before or behind them."""
    hidden = x.shape[-1] * rng.choice((1, 2, 4))
    act = rng.choice(("Gelu", "Gelu", "Relu", "SiLU"))
    for part in ("attention", "perceptron"):
        y = layer_norm(b, x) if before else x
        if part == "attention":
            y = attention(b, y, heads, rng)
        else:
            y = activation(b, linear(b, b.quantized(y), hidden), act)
            y = linear(b, y, x.shape[-1])
        x = b.op("Add", [x, y], x.shape)
        x = x if before else layer_norm(b, x)
    return x


def mixer_layer(b: Builder, x: Value, rng: Random) -> Value:
    """Perceptrons over tokens, then over features (Tolstikhin et al., NeurIPS 2021)."""
    hidden = rng.choice((1, 2, 4))
    for swap in (True, False):
        y = layer_norm(b, x)
        y = transpose(b, y, 0, 2, 1) if swap else y
        width = y.shape[-1]
        y = activation(b, linear(b, b.quantized(y), max(8, int(width * hidden / 2))), "Gelu")
        y = linear(b, y, width)
        y = transpose(b, y, 0, 2, 1) if swap else y
        x = b.op("Add", [x, y], x.shape)
    return x


def patches(b: Builder, batch: int, tokens: int, width: int, rng: Random) -> Value:
    """An image cut into patches, each projected to ``width`` features."""
    side = max(2, round(math.sqrt(tokens)))
    patch = rng.choice((2, 4, 8, 16))
    x = b.input(batch, 3, side * patch, side * patch)
    weight = b.weight(width, 3, patch, patch, fan_in=3 * patch**2)
    shape = (batch, width, side, side)
    reads = [x, weight, b.bias(width, 3 * patch**2)]
    x = b.op("Conv", reads, shape, kernel_shape=[patch] * 2, strides=[patch] * 2, quantize=True)
    b.macs += math.prod(shape) * 3 * patch**2
    x = transpose(b, reshape(b, x, (batch, width, side * side)), 0, 2, 1)
    return b.op("Add", [x, b.stored(1, side * side, width)], x.shape)
