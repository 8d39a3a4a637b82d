"""What a layer's shape says about it, and that timing splits work into whole processes."""

from __future__ import annotations

import json

import pytest

from edgekd.bench import layers
from edgekd.bench.layers import LayerShape, copies, time_layers
from edgekd.errors import MeasurementError
from edgekd.export.layer_models import layer_model


def conv(inputs: int, outputs: int, size: int) -> LayerShape:
    return LayerShape("conv", inputs, outputs, (size, size), (3, 3), (1, 1), (1, 1), (1, 1))


def test_counts_of_known_layers() -> None:
    layer = conv(16, 32, 8)
    assert layer.output_size == (8, 8)
    assert (layer.weights, layer.macs) == (4608, 4608 * 64)
    assert layer.elements == 16 * 64 + 32 * 64 + 4608
    depthwise = LayerShape("conv", 8, 8, (9,), (3,), (2,), (0,), (1,), groups=8)
    assert (depthwise.output_size, depthwise.weights, depthwise.macs) == ((4,), 24, 96)
    transposed = LayerShape("conv_transpose", 4, 2, (5,), (3,), (2,), (1,), (1,), (1,))
    assert (transposed.output_size, transposed.weights, transposed.macs) == ((10,), 24, 120)
    linear = LayerShape("linear", 64, 10, (7,))
    assert (linear.output_size, linear.weights, linear.macs) == ((7,), 640, 4480)
    product = LayerShape("matmul", 32, 50, (50,), groups=4)
    assert (product.weights, product.macs) == (0, 4 * 50 * 32 * 50)
    assert product.elements == 4 * (50 * 32 + 32 * 50 + 50 * 50)


def test_shapes_survive_json() -> None:
    layer = conv(3, 16, 32)
    assert LayerShape.from_dict(json.loads(json.dumps(layer.to_dict()))) == layer
    with pytest.raises(TypeError):
        LayerShape.from_dict({**layer.to_dict(), "batch": 4})


def test_small_layers_are_repeated_more() -> None:
    assert copies(conv(3, 4, 4)) > copies(conv(16, 16, 32)) >= 2


def test_times_layers_in_order_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = conv(64, 64, 16), LayerShape("linear", 16, 16, (1,))
    monkeypatch.setattr(layers, "_HELD_WEIGHTS", 100)  # one process a layer
    slow, fast = time_layers([large, small], layer_model, threads=1)
    assert slow > 10 * fast > 0  # 9.4 million multiplications against 256


def test_a_layer_that_cannot_run_is_named_in_one_line() -> None:
    with pytest.raises(MeasurementError, match="cannot be loaded") as error:
        time_layers([conv(3, 4, 4)], lambda _shape, _copies: b"no model", threads=1)
    assert "\n" not in str(error.value)
