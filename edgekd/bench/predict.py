"""How long layers would take on hardware that is not here, from the figures of its data sheet.

The roofline model of Williams et al. (CACM 52(4), 2009): a layer takes as long as its arithmetic at
the peak rate or its data at the memory's rate, whichever is longer. What is computed so is a
prediction and must be shown as one; it is good for the order of layers more than for milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from edgekd.bench.layers import LayerShape


@dataclass(frozen=True)
class DeviceModel:
    """The figures of a device, as its profile names them.

    ``peak_gmacs``: billions of multiply-accumulates a second; ``memory_gb_per_s``: billions of
    bytes a second; ``layer_overhead_us``: microseconds that a layer takes if there is nothing to
    do; ``channel_multiple``: kernels take channel counts as if rounded up to it; ``number_bytes``:
    bytes of one number.
    """

    peak_gmacs: float
    memory_gb_per_s: float
    layer_overhead_us: float = 0.0
    channel_multiple: int = 1
    number_bytes: int = 4

    @property
    def source(self) -> Literal["predicted"]:
        """Nothing here was measured."""
        return "predicted"

    def times(self, shapes: Iterable[LayerShape]) -> dict[LayerShape, float]:
        """Return the microseconds of each shape."""
        return {shape: self._microseconds(shape) for shape in shapes}

    def _microseconds(self, shape: LayerShape) -> float:
        filled = self._filled(shape)
        arithmetic = filled.macs / self.peak_gmacs / 1e3
        memory = filled.elements * self.number_bytes / self.memory_gb_per_s / 1e3
        return max(arithmetic, memory) + self.layer_overhead_us

    def _filled(self, shape: LayerShape) -> LayerShape:
        """Round the channels of each group up; a depthwise convolution is rounded as a whole."""
        step, groups = self.channel_multiple, shape.groups
        if shape.op == "matmul":
            return replace(shape, inputs=_up(shape.inputs, step), outputs=_up(shape.outputs, step))
        if shape.inputs == groups > 1:
            whole = _up(groups, step)
            outputs = shape.outputs // groups * whole
            return replace(shape, inputs=whole, outputs=outputs, groups=whole)
        return replace(
            shape,
            inputs=_up(shape.inputs // groups, step) * groups,
            outputs=_up(shape.outputs // groups, step) * groups,
        )


def _up(count: int, step: int) -> int:
    return -(-count // step) * step
