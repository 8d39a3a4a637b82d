"""Run a model on OpenVINO, an optional runtime for CPUs: ``pip install "edgekd[openvino]"``."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from edgekd.errors import BundleError
from edgekd.runtime.tensors import one_line
from edgekd.spec import TensorSpec

PRECISIONS = ("f32", "bf16")
"""What floating point layers are computed in; quantized layers run on integers in either."""

_LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_TELEMETRY = "openvino_telemetry"
_INSTALL = 'pip install "edgekd[openvino]", or choose runtime="onnxruntime"'


class OpenVINOSession:
    """A compiled model; calls from any number of threads at once are fine.

    ``inputs`` and ``outputs`` are the model's own TensorSpecs.
    """

    def __init__(self, compiled: Any) -> None:
        self.inputs = tuple(map(_describe, compiled.inputs))
        self.outputs = tuple(map(_describe, compiled.outputs))
        self._compiled = compiled
        self._input_at = {tensor.name: i for i, tensor in enumerate(self.inputs)}
        self._output_at = {tensor.name: i for i, tensor in enumerate(self.outputs)}
        # A request runs one call at a time. deque's append and pop are atomic, so every call takes
        # an idle request, or makes one, and no more exist than calls ever ran at once.
        self._idle: deque[_Request] = deque()

    def run(self, names: Sequence[str], feed: Mapping[str, Any]) -> list[Any]:
        """Return the outputs ``names`` for input name -> array; raises what OpenVINO raises."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = _Request(self._compiled.create_infer_request())
        arrays = {self._input_at[name]: array for name, array in feed.items()}
        outputs = request.run(arrays, [self._output_at[name] for name in names])
        self._idle.append(request)  # one that failed is dropped
        return outputs

    def layer_precisions(self) -> dict[str, int]:
        """Count convolutions and matrix products by what they are computed in.

        The names are OpenVINO's: ``u8`` and ``i8`` are integer kernels, ``f32`` and ``bf16`` float
        ones. Read from the graph that OpenVINO runs, after its fusions.
        """
        found: Counter[str] = Counter()
        for operation in self._compiled.get_runtime_model().get_ops():
            info = operation.get_rt_info()
            if info["layerType"].astype(str) in _LAYERS:
                found[info["runtimePrecision"].astype(str)] += 1
        return dict(found)


class _Request:
    """One infer request and the input buffers that it owns."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._buffers: dict[int, Any] = {}

    def run(self, arrays: Mapping[int, Any], outputs: Sequence[int]) -> list[Any]:
        # Copying into a tensor that stays bound is faster for small inputs than binding the
        # caller's array anew (4 % against 10 % of a 0.2 ms call), and keeps none of it alive.
        for position, array in arrays.items():
            buffer = self._buffers.get(position)
            if buffer is None or buffer.shape != array.shape:
                buffer = self._bind(position, array)
            np.copyto(buffer, array)
        self._request.infer(share_outputs=True)
        return [np.array(self._request.get_output_tensor(i).data) for i in outputs]

    def _bind(self, position: int, array: Any) -> Any:
        import openvino

        tensor = openvino.Tensor(np.empty(array.shape, array.dtype), shared_memory=True)
        self._request.set_input_tensor(position, tensor)
        self._buffers[position] = tensor.data
        return tensor.data


def is_installed() -> bool:
    """Tell whether OpenVINO can be imported, without importing it."""
    return find_spec("openvino") is not None


def open_openvino(
    content: bytes, precision: str | None = None, threads: int | None = None
) -> OpenVINOSession:
    """Compile an ONNX model for this CPU.

    ``precision`` is ``f32`` (also None) or ``bf16``. It is always passed on: left alone, OpenVINO
    computes float models in bf16 where the processor can. ``threads`` of one call; None: OpenVINO's
    default, all cores.

    Raises BundleError when OpenVINO is not installed, the processor has no bf16, or OpenVINO cannot
    open the model.
    """
    core = _core()
    precision = precision or PRECISIONS[0]
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise BundleError(f"OpenVINO is used with the precisions {known}, not {precision!r}")
    if precision == "bf16" and not has_bf16():
        raise BundleError('this processor has no bf16 instructions; use precision="f32"')
    try:
        model = core.read_model(content)
        return OpenVINOSession(core.compile_model(model, "CPU", _settings(precision, threads)))
    except Exception as error:  # OpenVINO raises RuntimeError for whatever it cannot do
        raise BundleError(f"OpenVINO cannot open it: {one_line(error)}") from error


def has_bf16() -> bool:
    """Tell whether OpenVINO computes in bf16 on this processor; raises BundleError without it."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def version() -> str:
    """Return OpenVINO's version, as ``2026.4.1``; raises BundleError where it is not installed."""
    _core()
    return str(_import().__version__).partition("-")[0]


def _settings(precision: str, threads: int | None) -> dict[str, Any]:
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": 1,  # one call gets all threads, as in ONNX Runtime
        # Pinned threads of two processes, or of two models, would wait for the same core.
        "ENABLE_CPU_PINNING": False,
        # What was quantized is in the graph; OpenVINO shall not quantize more at run time.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    return settings if threads is None else {**settings, "INFERENCE_NUM_THREADS": threads}


@lru_cache
def _core() -> Any:
    if not is_installed():
        raise BundleError(f"OpenVINO is not installed: {_INSTALL}")
    return _import().Core()


def _import() -> Any:
    """Import OpenVINO without its usage reports.

    Its import announces itself to Google Analytics unless the user has opted out. Where its
    package ``openvino_telemetry`` cannot be imported it does without, so for the moment of the
    import it cannot.
    """
    silence = "openvino" not in sys.modules and _TELEMETRY not in sys.modules
    if silence:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # documented: not importable
    try:
        import openvino
    except ImportError as error:
        raise BundleError(f"OpenVINO cannot be imported ({one_line(error)}): {_INSTALL}") from error
    finally:
        if silence:
            del sys.modules[_TELEMETRY]
    return openvino


def _describe(port: Any) -> TensorSpec:
    dtype = str(np.dtype(port.get_element_type().to_dtype()))
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return TensorSpec(_name(port), dtype, ())
    axes = tuple(size.get_length() if size.is_static else None for size in shape)
    return TensorSpec(_name(port), dtype, axes)


def _name(port: Any) -> str:
    """Return the name that the ONNX file gives to an input or output.

    Where OpenVINO removes an Identity, the port has the names of the tensors on both sides of it.
    Its node still has the ONNX name, that of a result with ``/sink_port_0`` behind.
    """
    node = str(port.get_node().friendly_name)
    name = node.rpartition("/sink_port_")[0] or node
    return name if name in port.get_names() else str(port.get_any_name())
