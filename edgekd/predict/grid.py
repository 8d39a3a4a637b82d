"""The grid of a calibration: random layer shapes, in small networks as they occur.

A layer by itself, over and over, finds its weights and its input in the nearest cache and pays for
no layout or number format of its neighbours. So the shapes are measured inside networks. Sizes are
spread evenly over their logarithms; number ``n`` of a seed is always the same network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import numpy as np
from onnx import TensorProto

from edgekd.predict.blocks import (
    image_block,
    mixer_layer,
    patches,
    transformer_layer,
    up_and_down,
)
from edgekd.predict.builder import Builder, Value
from edgekd.predict.layers import activation, conv, global_pool, layer_norm, linear, reshape

MACS = (3e6, 1.5e9)  # of one network: the largest takes 10 to 100 ms on a core of today
NUMBERS = (2**9, 2**20)  # of one tensor of the networks of small operations


def calibration_network(seed: int, number: int) -> tuple[str, bytes]:
    """Return a name and the ONNX model of network ``number``."""
    rng = Random(f"{seed}-{number}")
    makers: tuple[tuple[Callable[[Builder, Random], bytes], str, int], ...] = (
        (_images, "images", 12),
        (_up_down, "up and down", 2),
        (_tokens, "tokens", 5),
        (_perceptron, "perceptron", 2),
        (_small, "small operations", 4),
    )
    make, name, _ = rng.choices(makers, [weight for *_, weight in makers])[0]
    integer = rng.random() < 0.5
    builder = Builder(number, integer=integer, everything=rng.random() < 0.4)
    return f"{name}, {'int8' if integer else 'float32'}", make(builder, rng)


def log_uniform(rng: Random, low: float, high: float) -> float:
    """Return a number whose logarithm is spread evenly."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _width(rng: Random, low: float, high: float) -> int:
    """Return channels: mostly multiples of 8, sometimes anything."""
    width = log_uniform(rng, low, high)
    return max(8, round(width / 8) * 8) if rng.random() < 0.8 else max(3, round(width))


def _batch(rng: Random) -> int:
    return rng.choice((1, 1, 1, 1, 1, 1, 1, 2, 4, 8))


def _images(b: Builder, rng: Random) -> bytes:
    limit, size = log_uniform(rng, *MACS), round(log_uniform(rng, 16, 224))
    batch, width = _batch(rng), _width(rng, 8, 64)
    x = b.input(batch, rng.choice((1, 3, 3, 3)), size, size)
    x = conv(b, x, width, rng.choice((3, 3, 5, 7)), rng.choice((1, 2) if size > 48 else (1,)))
    growth = rng.choice((1.2, 1.5, 2.0))
    for _ in range(rng.randint(3, 14)):
        if b.macs > limit:
            break
        small = x.shape[-1] < 6
        stride = 1 if small or rng.random() < 0.6 else 2
        if stride == 2:
            width = min(_near(width * growth, rng), 1024)
        places = math.prod(x.shape[2:]) * batch / stride**2
        fits = math.sqrt(limit / 6 / places / 9)  # of a 3x3 convolution
        here = max(8, min(width, int(fits) // 8 * 8))
        x = image_block(b, x, here, stride, rng)
        width = max(width, x.shape[1])
    return _head(b, x, rng)


def _near(width: float, rng: Random) -> int:
    return max(8, round(width / 8) * 8) if rng.random() < 0.8 else max(3, round(width))


def _head(b: Builder, x: Value, rng: Random) -> bytes:
    if rng.random() < 0.3:
        return b.finish(conv(b, x, rng.choice((1, 3, 8, 21)), act=None))
    x = global_pool(b, x, rng)
    x = reshape(b, x, x.shape[:2])
    return b.finish(linear(b, x, rng.choice((2, 10, 100, 1000)), gemm=True))


def _up_down(b: Builder, rng: Random) -> bytes:
    size = 8 * round(log_uniform(rng, 3, 20))
    x = b.input(_batch(rng), 3, size, size)
    x = conv(b, x, _width(rng, 8, 32), 3)
    x = up_and_down(b, x, _width(rng, 8, 48 if size < 96 else 24), rng)
    return b.finish(conv(b, x, rng.choice((1, 2, 21)), act=None))


def _tokens(b: Builder, rng: Random) -> bytes:
    heads, head = rng.choice((1, 2, 3, 4, 6, 8, 12)), rng.choice((16, 32, 32, 64, 64))
    width, tokens = heads * head, round(log_uniform(rng, 8, 256))
    batch, limit = _batch(rng), log_uniform(rng, *MACS)
    match rng.choice(("patches", "words", "vectors")):
        case "patches":
            x = patches(b, batch, tokens, width, rng)
        case "words":
            ids = b.input(batch, tokens, dtype=TensorProto.INT64)
            table = b.stored(rng.choice((256, 4096, 16384)), width)
            x = b.op("Gather", [table, ids], (batch, tokens, width), axis=0)
            x = b.op("Add", [x, b.stored(1, tokens, width)], x.shape)
            x = layer_norm(b, x)
        case _:
            x = b.input(batch, tokens, width)
    before, mixer = rng.random() < 0.5, rng.random() < 0.25
    for _ in range(rng.randint(1, 6)):
        once = b.macs
        x = mixer_layer(b, x, rng) if mixer else transformer_layer(b, x, heads, rng, before=before)
        if 2 * b.macs - once > limit:
            break
    if rng.random() < 0.5:
        x = b.op("ReduceMean", [x, b.constant([1])], (batch, width), keepdims=0)
    else:
        x = b.op("Gather", [x, b.constant(np.int64(0))], (batch, width), axis=1)
    return b.finish(linear(b, b.quantized(x), rng.choice((2, 10, 100, 1000)), gemm=True))


def _perceptron(b: Builder, rng: Random) -> bytes:
    x = b.input(rng.choice((1, 1, 1, 8, 32, 64)), round(log_uniform(rng, 16, 2048)))
    act = rng.choice(("Relu", "Relu", "Gelu", "Tanh", "Sigmoid", "SiLU"))
    for _ in range(rng.randint(2, 6)):
        x = activation(b, linear(b, x, _width(rng, 16, 2048), gemm=True), act)
    return b.finish(linear(b, x, 10, gemm=True))


def _small(b: Builder, rng: Random) -> bytes:
    """A chain of operations that compute little, each of them over and over in many sizes."""
    x = b.input(*_small_shape(rng))
    outputs = []
    for _ in range(rng.randint(10, 30)):
        if rng.random() < 0.15:
            outputs.append(x)
            x = b.input(*_small_shape(rng))
        x = _small_operation(b, x, rng)
    return b.finish(*outputs, x)


def _small_shape(rng: Random) -> tuple[int, ...]:
    size, last = log_uniform(rng, *NUMBERS), round(log_uniform(rng, 8, 1024))
    if rng.random() < 0.5:
        return (1, max(1, round(size / last)), last)
    side = max(2, min(64, round(log_uniform(rng, 4, 64))))
    return (1, max(1, round(size / side**2)), side, side)


UNARY = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "Gelu",
    "Erf",
    "Exp",
    "Sqrt",
    "HardSwish",
    "HardSigmoid",
    "LeakyRelu",
    "Neg",
    "Abs",
)
BINARY = ("Add", "Mul", "Sub", "Div")


def _small_operation(b: Builder, x: Value, rng: Random) -> Value:
    rank, last = len(x.shape), x.shape[-1]
    match rng.choice(("unary", "binary", "number", "rows", "order", "reduce", "join", "part")):
        case "unary":
            y = b.op(rng.choice(UNARY), [_bounded(b, x)], x.shape)
        case "binary":
            other = rng.choice((x.shape, (last,), (*x.shape[:2], *[1] * (rank - 2))))
            y = b.op(rng.choice(BINARY), [x, b.positive(*other)], x.shape)
        case "number":
            kind = rng.choice((*BINARY, "Pow"))
            y = b.op(kind, [_bounded(b, x), b.constant(np.float32(2))], x.shape)
        case "rows" if rng.random() < 0.5:
            y = b.op("Softmax", [_bounded(b, x)], x.shape, axis=-1)
        case "rows":
            y = layer_norm(b, x)
        case "order":
            order = rng.sample(range(rank), rank)
            y = b.op("Transpose", [x], [x.shape[a] for a in order], perm=order)
        case "reduce":
            shape = (*x.shape[:-1], 1)
            kind = rng.choice(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2"))
            row = b.op(kind, [x, b.constant([-1])], shape, keepdims=1)
            y = b.op(rng.choice(("Sub", "Add", "Mul")), [x, row], x.shape)
        case "join":
            axis = rng.randrange(1, rank)
            twice = [size * (1 + (n == axis)) for n, size in enumerate(x.shape)]
            y = b.op("Concat", [x, x], twice, axis=axis)
            ends = [b.constant([0]), b.constant([x.shape[axis]]), b.constant([axis])]
            y = b.op("Slice", [y, *ends], x.shape)
        case _:
            y = _bounded(b, x)
    return b.quantized(y) if rng.random() < 0.5 else y


def _bounded(b: Builder, x: Value) -> Value:
    """Keep numbers between -1 and 1: very large and very small ones take other times."""
    return b.op("Clip", [x, b.constant(np.float32(-1)), b.constant(np.float32(1))], x.shape)
