"""How long single layers take in ONNX Runtime: the difference that more copies of them make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from edgekd.bench.runner import run_worker
from edgekd.progress import Progress, Silent

VERSION = "layers-1"
"""The rules of timing. Change it with them: times of two versions do not mix."""

_TARGET_MACS = 3e6  # of the copies that differ: 50 to 300 us, well above a timer's noise
_FEW, _MOST = 2, 16
_HELD_WEIGHTS = 2**26  # numbers in the models of one process, which it holds open together


@dataclass(frozen=True, order=True)
class LayerShape:
    """What a layer's latency depends on: one sample, float32.

    ``inputs`` and ``outputs`` are channels or features, over all ``groups``. ``size`` is the
    input's spatial size of a convolution, the number of tokens ``(T,)`` of a linear layer.
    ``matmul`` is ``groups`` products ``(T, inputs) @ (inputs, outputs)`` of two computed tensors.
    ``kernel``, ``stride``, ``padding``, ``dilation`` and ``output_padding`` have one entry a
    spatial axis, and are empty for other operations.
    """

    op: Literal["conv", "conv_transpose", "linear", "matmul"]
    inputs: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1

    @property
    def output_size(self) -> tuple[int, ...]:
        """The output's spatial size, or ``(T,)``."""
        if self.op not in ("conv", "conv_transpose"):
            return self.size
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        if self.op == "conv":
            return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)
        more = self.output_padding or (0,) * len(self.size)
        plain = ((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in axes)
        return tuple(n + extra for n, extra in zip(plain, more, strict=True))

    @property
    def macs(self) -> int:
        """Multiplications of one sample."""
        if self.op == "matmul":
            return self.groups * self.inputs * self.outputs * math.prod(self.size)
        places = self.size if self.op == "conv_transpose" else self.output_size
        return self.weights * math.prod(places)

    @property
    def weights(self) -> int:
        """Stored weights, biases not counted."""
        if self.op == "matmul":
            return 0
        return self.inputs * self.outputs // self.groups * math.prod(self.kernel)

    @property
    def elements(self) -> int:
        """Numbers that are read or written: operands, weights and result."""
        operand = self.inputs * math.prod(self.size)
        result = self.outputs * math.prod(self.output_size)
        if self.op == "matmul":
            return self.groups * (operand + result + self.inputs * self.outputs)
        return operand + result + self.weights

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerShape:
        """Read what ``to_dict`` wrote; raises TypeError on other data."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


Build = Callable[[LayerShape, int], bytes]


def time_layers(
    shapes: Sequence[LayerShape],
    build: Build,
    threads: int,
    *,
    progress: Progress | None = None,
    timeout_s: float = 3600.0,
) -> list[float]:
    """Return the microseconds that each layer adds to a model on ONNX Runtime's CPU kernels.

    ``build(shape, copies)`` is an ONNX model of so many equal layers. What a call costs besides
    (its own start, the change of the data's layout) is in a model of few and one of many copies
    alike, so the slope between the two is the layer. The two take turns, in a fresh process, about
    0.12 s a layer. ``timeout_s`` is for one process.

    Raises MeasurementError when ONNX Runtime refuses a model or the process fails.
    """
    times = []
    with (progress or Silent()).task("Timing layers", len(shapes)) as advance:
        for chunk in _chunks(shapes):
            times += _time_chunk(chunk, build, threads, timeout_s)
            advance(len(chunk))
    return times


def _time_chunk(
    shapes: Sequence[LayerShape], build: Build, threads: int, timeout_s: float
) -> list[float]:
    with TemporaryDirectory() as folder:
        layers = []
        for number, shape in enumerate(shapes):
            layer: dict[str, str | int] = {"copies": copies(shape)}
            for name, count in (("few", _FEW), ("many", _FEW + copies(shape))):
                path = Path(folder) / f"{number}-{name}.onnx"
                path.write_bytes(build(shape, count))
                layer[name] = str(path)
            layers.append(layer)
        job = {"layers": layers, "threads": threads}
        answer = run_worker("edgekd.bench.layer_worker", job, timeout_s)
    return [float(time) for time in answer["microseconds"]]


def _chunks(shapes: Sequence[LayerShape]) -> list[list[LayerShape]]:
    """Share ``shapes`` among processes, so that none holds too many weights."""
    chunks: list[list[LayerShape]] = []
    held = math.inf
    for shape in shapes:
        needs = shape.weights * (2 * _FEW + copies(shape))
        if held + needs > _HELD_WEIGHTS:
            chunks.append([])
            held = 0
        chunks[-1].append(shape)
        held += needs
    return chunks


def copies(shape: LayerShape) -> int:
    """Return how many copies more the larger of a layer's two models has."""
    return max(2, min(_MOST, round(_TARGET_MACS / max(shape.macs, 1))))
