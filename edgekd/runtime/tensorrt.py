"""Run a TensorRT engine: named inputs and outputs, as TensorRT 8.5 to 11 and TensorRT-RTX have.

``edgekd.runtime.cuda`` starts the driver before anything of TensorRT is imported: where no driver
works, some versions of TensorRT end the whole process.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from edgekd.errors import BundleError
from edgekd.runtime.batches import Batching
from edgekd.runtime.closing import closed
from edgekd.runtime.cuda import Cuda, GpuMachine, shared_cuda
from edgekd.runtime.engine_manifest import EngineEntry, ShapeRange
from edgekd.runtime.engine_slot import Slot
from edgekd.runtime.pool import Pool
from edgekd.runtime.tensors import one_line
from edgekd.spec import ModelSpec, TensorSpec

CONTEXTS = 4
"""How many calls at once run on one engine unless the caller says otherwise; others wait."""

# By the names of TensorRT's own enum: its ``nptype`` asks numpy 1.24 and later for ``numpy.bool``.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}


def look(bindings: Collection[str]) -> tuple[GpuMachine, Mapping[str, str]]:
    """Return what this machine is, and the version of each of ``bindings`` that can be imported.

    Raises BundleError where no driver works, or none of them can be imported.
    """
    machine = shared_cuda().machine()  # first: it starts the driver
    versions, reasons = {}, []
    for name in bindings:
        try:
            versions[name] = str(import_module(name).__version__)
        except (ImportError, OSError, AttributeError) as error:
            reasons.append(f"{name} cannot be imported ({one_line(error)})")
    if not versions:
        raise BundleError(f"TensorRT is missing here: {'; '.join(reasons)}")
    return machine, versions


def open_engine(
    content: bytes, entry: EngineEntry, spec: ModelSpec, contexts: int | None = None
) -> TensorRTSession:
    """Deserialise an engine that ``entry`` describes and this machine was found to fit.

    ``spec`` are the manifest's inputs and outputs. ``contexts`` is how many calls may run at once.
    An engine is code: open only what comes from someone you trust. Raises BundleError where no
    driver works and where TensorRT does not take the engine.
    """
    if contexts is not None and contexts < 1:
        raise BundleError(f"contexts must be 1 or more, not {contexts}")
    cuda = shared_cuda()
    cuda.make_current()
    trt = import_module(entry.binding)
    logger = _logger(entry.binding)
    with logger.lock:
        logger.errors.clear()
        try:
            if hasattr(trt, "init_libnvinfer_plugins"):
                trt.init_libnvinfer_plugins(logger.own, "")
            runtime = trt.Runtime(logger.own)
            if entry.version_compatible and hasattr(runtime, "engine_host_code_allowed"):
                runtime.engine_host_code_allowed = True  # it carries its own lean runtime
            if entry.dla_core is not None:
                runtime.DLA_core = entry.dla_core
            engine = runtime.deserialize_cuda_engine(content)
        except Exception as error:  # pybind11 raises TypeError where a factory returns nothing
            raise BundleError(f"TensorRT cannot open it: {one_line(error)}") from error
        if engine is None:
            reason = one_line(Exception("; ".join(logger.errors) or "it does not say why"))
            raise BundleError(f"TensorRT cannot open it: {reason}")
    return TensorRTSession(trt, (runtime, engine), cuda, spec, contexts or CONTEXTS)


class TensorRTSession:
    """An engine on the GPU; calls from any number of threads at once are fine.

    Every call has an execution context of its own, with its own stream and memory, from a pool of
    ``contexts``. ``inputs`` and ``outputs`` are the engine's own TensorSpecs; where TensorRT 8 made
    int32 of the manifest's int64, they say int64 and values are converted.
    """

    def __init__(
        self, trt: Any, opened: tuple[Any, Any], cuda: Cuda, spec: ModelSpec, contexts: int
    ) -> None:
        self._opened: tuple[Any, Any] | None = opened
        self._cuda, self._making = cuda, threading.Lock()
        engine = opened[1]
        promised = {tensor.name: tensor.dtype for tensor in (*spec.inputs, *spec.outputs)}
        self._own: dict[str, str] = {}
        inputs: list[TensorSpec] = []
        outputs: list[TensorSpec] = []
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise BundleError(f"{name} is a shape that the engine wants on the CPU: no such")
            dtype = _dtype(engine, name)
            self._own[name] = dtype
            widened = (dtype, promised.get(name)) == ("int32", "int64")
            axes = tuple(None if size < 0 else size for size in engine.get_tensor_shape(name))
            tensor = TensorSpec(name, "int64" if widened else dtype, axes)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if is_input else outputs).append(tensor)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        free = {tensor.name for tensor in spec.inputs if tensor.shape[:1] == (None,)}
        shapes = {t.name: _range(engine, t) for t in inputs}
        self.batching = Batching(shapes, free & set(shapes))
        dynamic = any(size is None for tensor in inputs for size in tensor.shape)
        if dynamic and int(str(trt.__version__).partition(".")[0]) == 8:
            contexts = 1  # TensorRT 8 has one context for each optimisation profile
        self._pool = Pool(self._new_slot, Slot.free, contexts)

    def run(self, names: Sequence[str], feed: Mapping[str, Any]) -> Sequence[Any]:
        """Return the outputs ``names`` for input name -> numpy array or tensor on the GPU.

        Outputs are arrays of numpy, or GpuArrays where any input is on the GPU. Raises DataError
        for inputs that the engine does not take, RuntimeError where TensorRT or CUDA fails.
        """
        with self._pool.item() as slot:
            return slot.run(names, feed, self.batching)

    def best_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes that the engine is fastest at, by input."""
        return {name: limits.best for name, limits in self.batching.shapes.items()}

    def warm_up(self, names: Sequence[str], feed: Mapping[str, Any]) -> None:
        """Make all contexts that there may be and run each once."""
        self._pool.use_all(lambda slot: slot.run(names, feed, self.batching))

    def close(self) -> None:
        """Free what no call uses, and the rest when those that run are done."""
        self._pool.close()
        with self._making:
            self._opened = None

    def _new_slot(self) -> Slot:
        self._cuda.make_current()
        with self._making:
            if self._opened is None:
                raise closed()
            context = self._opened[1].create_execution_context()
            if context is None:
                raise RuntimeError("TensorRT gives no execution context: is the memory full?")
            return Slot(context, self._opened, self._cuda, self._own, (self.inputs, self.outputs))


def _dtype(engine: Any, name: str) -> str:
    own = str(engine.get_tensor_dtype(name).name)
    if own not in _DTYPES:
        raise BundleError(f"{name} is {own}, which numpy does not have: no such engine is run")
    return _DTYPES[own]


def _range(engine: Any, tensor: TensorSpec) -> ShapeRange:
    """Return the shapes of the engine's first profile, which is what edgekd builds."""
    fixed = tuple(size for size in tensor.shape if size is not None)
    if len(fixed) == len(tensor.shape):
        return ShapeRange(fixed, fixed, fixed)
    shapes = engine.get_tensor_profile_shape(tensor.name, 0)
    low, best, high = (tuple(int(size) for size in shape) for shape in shapes)
    return ShapeRange(low, best, high)


class _Logger:
    """What TensorRT says of errors, kept instead of printed; ``lock`` is for who reads it."""

    def __init__(self, trt: Any) -> None:
        self.lock, self.errors = threading.Lock(), []  # type: tuple[threading.Lock, list[str]]
        severity = trt.ILogger.Severity
        kept, worst = self.errors, (severity.INTERNAL_ERROR, severity.ERROR)

        class Own(trt.ILogger):  # type: ignore[misc]  # found late
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, text: str) -> None:
                if level in worst:
                    kept.append(text)
                    del kept[:-4]  # the last ones say what happened

        self.own = Own()


@lru_cache
def _logger(binding: str) -> _Logger:
    return _Logger(import_module(binding))  # one for the process: TensorRT keeps the first
