"""Latency from a data sheet: which of two figures limits a layer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.bench.layers import LayerShape
from edgekd.bench.predict import DeviceModel


def conv(inputs: int, outputs: int, groups: int = 1) -> LayerShape:
    axes = ((3, 3), (1, 1), (1, 1), (1, 1))
    return LayerShape("conv", inputs, outputs, (8, 8), *axes, groups=groups)


def time(model: DeviceModel, shape: LayerShape) -> float:
    return model.times([shape])[shape]


def test_the_slower_of_arithmetic_and_memory() -> None:
    layer = conv(16, 32)
    assert layer.macs == 294_912
    assert time(DeviceModel(2.0, 1e9), layer) == pytest.approx(147.456)
    assert layer.elements == 16 * 64 + 32 * 64 + 16 * 32 * 9
    memory = DeviceModel(1e9, 0.5, layer_overhead_us=3.0, number_bytes=2)
    assert time(memory, layer) == pytest.approx(7680 * 2 / 500 + 3)
    assert memory.source == "predicted"


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 8, 16, 32]))
def test_widths_between_two_steps_cost_as_the_next(inputs: int, outputs: int, step: int) -> None:
    model = DeviceModel(10.0, 5.0, 1.0, channel_multiple=step)
    full = conv(-(-inputs // step) * step, -(-outputs // step) * step)
    assert time(model, conv(inputs, outputs)) == time(model, full)
    assert time(model, conv(inputs + step, outputs)) > time(model, conv(inputs, outputs))


def test_one_input_is_no_depthwise_layer() -> None:
    model = DeviceModel(10.0, 5.0, channel_multiple=16)
    assert time(model, conv(1, 8)) == time(model, conv(16, 16))


def test_grouped_layers() -> None:
    model = DeviceModel(10.0, 5.0, channel_multiple=16)
    assert time(model, conv(24, 24, groups=24)) == time(model, conv(32, 32, groups=32))
    assert time(model, conv(40, 40, groups=4)) == time(model, conv(64, 64, groups=4))
    product = LayerShape("matmul", 10, 50, (50,), groups=3)
    full = LayerShape("matmul", 16, 64, (50,), groups=3)
    assert time(model, product) == time(model, full)
