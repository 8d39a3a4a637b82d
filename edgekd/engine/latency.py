"""How long an engine takes on the GPU: CUDA events around single runs, with and without a graph.

NVIDIA, TensorRT developer guide, "Performance Benchmarking" and "CUDA Graphs". Inputs lie on the
GPU, and what is timed is the GPU's work: copies from and to the host are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.runtime.tensorrt import tensor_dtype
from edgekd.runtime.tensors import one_line

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekd.runtime.cuda import Cuda

WARM_UP_S = 0.3
ROUNDS = 300


class Bound:
    """An execution context with inputs and outputs of one size on the GPU, run without a copy.

    ``engine`` is TensorRT's. Raises RuntimeError where TensorRT or CUDA fails.
    """

    def __init__(self, engine: Any, cuda: Cuda, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        self._cuda, self._stream = cuda, cuda.new_stream()
        self.context = engine.create_execution_context()
        if self.context is None:
            raise RuntimeError("TensorRT gives no execution context: is the memory full?")
        self._memory: dict[str, int] = {}
        self._outputs: dict[str, npt.NDArray[Any]] = {}
        self._graph = 0
        self.profiler: Any = None  # TensorRT calls it, and may not own it
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        for name, array in inputs.items():
            rows = np.ascontiguousarray(array)
            if not self.context.set_input_shape(name, rows.shape):
                raise RuntimeError(f"the engine does not take {rows.shape} for input {name!r}")
            self._place(name, rows.nbytes)
            cuda.to_gpu(self._memory[name], rows.ctypes.data, rows.nbytes, self._stream)
            cuda.wait(self._stream)  # the rows may be a copy that is gone after this
        for name in names:
            if name not in inputs:
                dtype = np.dtype(tensor_dtype(engine, name))
                shape = tuple(self.context.get_tensor_shape(name))
                self._outputs[name] = np.empty(shape, dtype)
                self._place(name, self._outputs[name].nbytes)

    def run(self) -> None:
        """Give one run to the GPU, in the recorded graph if there is one; does not wait."""
        if self._graph:
            self._cuda.launch(self._graph, self._stream)
        elif not self.context.execute_async_v3(self._stream):
            raise RuntimeError("TensorRT cannot run the engine")

    def wait(self) -> None:
        """Wait until the GPU is done."""
        self._cuda.wait(self._stream)

    def record_graph(self) -> None:
        """Record a run as a CUDA graph; the runs after it cost the host a single call."""
        self.run()  # the first run of a shape may allocate, which cannot be recorded
        self.wait()
        recorded: list[int] = []
        with self._cuda.capture(self._stream, recorded):
            self.run()
        self._graph = recorded[0]

    def forget_graph(self) -> None:
        """Run launch by launch again."""
        self.wait()
        if self._graph:
            self._cuda.free_graph(self._graph)
        self._graph = 0

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """Return what the last run computed."""
        for name, array in self._outputs.items():
            self._cuda.from_gpu(array.ctypes.data, self._memory[name], array.nbytes, self._stream)
        self.wait()
        return {name: array.copy() for name, array in self._outputs.items()}

    def times_ms(self, rounds: int = ROUNDS) -> list[float]:
        """Warm up, then time ``rounds`` single runs on the GPU, in milliseconds."""
        end = monotonic() + WARM_UP_S
        while monotonic() < end:
            self.run()
            self.wait()
        start, stop = self._cuda.new_event(), self._cuda.new_event()
        found = []
        for _ in range(rounds):
            self._cuda.record(start, self._stream)
            self.run()
            self._cuda.record(stop, self._stream)
            found.append(self._cuda.milliseconds(start, stop))
        self._cuda.free_event(start)
        self._cuda.free_event(stop)
        return found

    def close(self) -> None:
        """Give memory, graph and stream back."""
        self.forget_graph()
        self.context = None
        for pointer in self._memory.values():
            self._cuda.free(pointer)
        self._cuda.free_stream(self._stream)

    def _place(self, name: str, size: int) -> None:
        self._memory[name] = self._cuda.allocate(size)
        if not self.context.set_tensor_address(name, self._memory[name]):
            raise RuntimeError(f"TensorRT does not take the memory of {name!r}")


def example(
    engine: Any, shapes: Mapping[str, Sequence[int]], seed: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """Return inputs of ``shapes``: normal floats, or integers 0 and 1, valid as token ids too."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in sorted(shapes.items()):
        dtype = np.dtype(tensor_dtype(engine, name))
        values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        made[name] = values.astype(dtype)
    return made


def measure(bound: Bound, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the GPU's time of one run, launch by launch and as a CUDA graph: plain data.

    ``with_graph`` is null where the engine cannot be recorded, and ``no_graph`` says why.
    """
    found: dict[str, Any] = {
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "without_graph": summary(bound.times_ms()),
        "with_graph": None,
    }
    try:
        bound.record_graph()
    except RuntimeError as error:
        return {**found, "no_graph": one_line(error)}
    try:
        return {**found, "with_graph": summary(bound.times_ms())}
    finally:
        bound.forget_graph()


def summary(times_ms: list[float]) -> dict[str, Any]:
    """Return count, median, 90th percentile, and the 99th where there are enough to carry it."""
    times = np.asarray(times_ms)
    return {
        "runs": len(times_ms),
        "median_ms": float(np.median(times)),
        "p90_ms": float(np.percentile(times, 90)) if len(times_ms) >= 10 else None,
        "p99_ms": float(np.percentile(times, 99)) if len(times_ms) >= 100 else None,
    }


def layer_times_ms(trt: Any, bound: Bound, runs: int = 20) -> dict[str, float]:
    """Return the mean time of each layer, by TensorRT's profiler, which slows the whole down."""
    total: dict[str, float] = {}

    class Own(trt.IProfiler):  # type: ignore[misc]  # found late
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, name: str, ms: float) -> None:
            total[name] = total.get(name, 0.0) + ms

    bound.context.profiler = bound.profiler = Own()
    for _ in range(runs):
        bound.run()
        bound.wait()
    return {name: ms / runs for name, ms in total.items()}
