"""Layers of the calibration networks, as exported networks have them."""

from __future__ import annotations

import math
from random import Random

import numpy as np

from edgekd.predict.builder import Builder, Value

ACTIVATIONS = ("Relu", "Relu6", "HardSwish", "SiLU", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "")


def activation(b: Builder, x: Value, kind: str) -> Value:
    """Add an activation function; ReLU and ReLU6 are absorbed by the quantizer behind them."""
    match kind:
        case "":
            return b.quantized(x)
        case "Relu6":
            limits = [b.constant(np.float32(0)), b.constant(np.float32(6))]
            return b.op("Clip", [x, *limits], x.shape, quantize=True)
        case "HardSwish" | "SiLU":
            x = b.quantized(x)
            inner = "HardSigmoid" if kind == "HardSwish" else "Sigmoid"
            gate = b.op(inner, [x], x.shape, quantize=True)
            return b.op("Mul", [x, gate], x.shape, quantize=True)
        case "Relu":
            return b.op("Relu", [x], x.shape, quantize=True)
        case _:
            return b.op(kind, [b.quantized(x)], x.shape, quantize=True)


def conv(
    b: Builder,
    x: Value,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    act: str | None = "Relu",
) -> Value:
    """Add a convolution with a bias; ``act`` None leaves the result to what comes next."""
    n, inputs, height, width = x.shape
    fan_in = inputs // groups * kernel**2
    sizes = [(size + 2 * (kernel // 2) - kernel) // stride + 1 for size in (height, width)]
    weight = b.weight(outputs, inputs // groups, kernel, kernel, fan_in=fan_in)
    y = b.op(
        "Conv",
        [x, weight, b.bias(outputs, fan_in)],
        (n, outputs, *sizes),
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[kernel // 2] * 4,
        group=groups,
    )
    b.macs += math.prod(y.shape) * fan_in
    return y if act is None else activation(b, y, act)


def linear(b: Builder, x: Value, outputs: int, *, gemm: bool = False) -> Value:
    """Add a fully connected layer: Gemm (rows of two axes only), or MatMul and Add."""
    *rows, inputs = x.shape
    b.macs += math.prod(x.shape) * outputs
    shape = (*rows, outputs)
    if gemm and len(x.shape) == 2:
        weight = b.weight(outputs, inputs, fan_in=inputs)
        return b.op("Gemm", [x, weight, b.bias(outputs, inputs)], shape, transB=1)
    if b.integer and not b.everything:
        flat = reshape(b, x, (math.prod(rows), inputs))
        return b.quantized(reshape(b, linear(b, flat, outputs, gemm=True), shape))
    weight = b.weight(inputs, outputs, fan_in=inputs, axis=1)
    y = b.op("MatMul", [x, weight], shape)
    return b.op("Add", [y, b.stored(outputs)], shape)


def product(b: Builder, x: Value, y: Value) -> Value:
    """Add a product of two computed tensors."""
    shape = (*x.shape[:-1], y.shape[-1])
    b.macs += math.prod(shape) * x.shape[-1]
    return b.op("MatMul", [x, y], shape)


def add(b: Builder, x: Value, y: Value, act: str = "") -> Value:
    """Add a sum of equal shapes."""
    result = b.op("Add", [x, y], x.shape)
    return activation(b, result, act)


def reshape(b: Builder, x: Value, shape: tuple[int, ...]) -> Value:
    """Add a change of shape."""
    return b.op("Reshape", [x, b.constant(list(shape))], shape, quantize=b.integer)


def transpose(b: Builder, x: Value, *order: int) -> Value:
    """Add a change of the order of axes."""
    return b.op(
        "Transpose", [x], [x.shape[axis] for axis in order], perm=list(order), quantize=b.integer
    )


def layer_norm(b: Builder, x: Value) -> Value:
    """Add a normalisation of the last axis."""
    reads = [x, b.stored(x.shape[-1]), b.stored(x.shape[-1])]
    return b.op("LayerNormalization", reads, x.shape, axis=-1, epsilon=1e-5)


def concat(b: Builder, values: list[Value], axis: int = 1) -> Value:
    """Add a concatenation."""
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    return b.op("Concat", [*values], shape, axis=axis, quantize=True)


def pool(b: Builder, x: Value, kind: str, kernel: int, stride: int) -> Value:
    """Add a pooling with a window."""
    n, channels, *sizes = x.shape
    shape = [n, channels, *((s + 2 * (kernel // 2) - kernel) // stride + 1 for s in sizes)]
    return b.op(
        kind,
        [x],
        shape,
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[kernel // 2] * 4,
        quantize=True,
    )


def global_pool(b: Builder, x: Value, rng: Random) -> Value:
    """Add the mean over all positions, written in one of three ways."""
    n, channels, height, width = x.shape
    shape = (n, channels, 1, 1)
    match rng.choice(("GlobalAveragePool", "ReduceMean", "AveragePool")):
        case "ReduceMean" if not b.integer:
            return b.op("ReduceMean", [x, b.constant([2, 3])], shape, keepdims=1)
        case "AveragePool":
            kernel = [height, width]
            return b.op("AveragePool", [x], shape, kernel_shape=kernel, quantize=True)
        case _:
            return b.op("GlobalAveragePool", [x], shape, quantize=True)


def resize(b: Builder, x: Value, scale: int, mode: str) -> Value:
    """Add an enlargement of an image."""
    n, channels, height, width = x.shape
    shape = (n, channels, height * scale, width * scale)
    scales = b.constant(np.array([1, 1, scale, scale], np.float32))
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if mode == "linear":
        how = {"coordinate_transformation_mode": "half_pixel"}
    return b.op("Resize", [x, None, scales], shape, mode=mode, **how, quantize=b.integer)
