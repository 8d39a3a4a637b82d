"""Run a TensorRT engine: named inputs and outputs, as TensorRT 8.5 to 11 and TensorRT-RTX have.

``edgekd.runtime.cuda`` starts the driver before anything of TensorRT is imported: where no driver
works, some versions of TensorRT end the whole process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgekd.errors import BundleError
from edgekd.runtime.batches import Batching
from edgekd.runtime.closing import closed
from edgekd.runtime.cuda import Cuda, GpuMachine, shared_cuda
from edgekd.runtime.engine_manifest import EngineEntry, ShapeRange
from edgekd.runtime.engine_slot import RefusedError, Slot
from edgekd.runtime.pool import Pool
from edgekd.runtime.tensors import one_line
from edgekd.spec import ModelSpec, TensorSpec

if TYPE_CHECKING:
    Specs = tuple[TensorSpec, ...]  # aliases are evaluated, and boards have Python 3.8

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
    return TensorRTSession(trt, deserialize(content, entry), cuda, spec, contexts or CONTEXTS)


def deserialize(content: bytes, entry: EngineEntry) -> tuple[Any, Any]:
    """Return TensorRT's runtime and engine, which have to live together.

    Raises BundleError with what TensorRT says where it does not take the engine.
    """
    trt, logger = import_module(entry.binding), _logger(entry.binding)
    with logger.lock:
        logger.errors.clear()
        with contextlib.suppress(Exception):  # a lean installation has no plugins
            trt.init_libnvinfer_plugins(logger.own, "")
        try:
            runtime = trt.Runtime(logger.own)
            if entry.version_compatible and hasattr(runtime, "engine_host_code_allowed"):
                runtime.engine_host_code_allowed = True  # it carries its own lean runtime
            if entry.dla_core is not None:
                runtime.DLA_core = entry.dla_core
            engine = runtime.deserialize_cuda_engine(content)
        except Exception as error:  # pybind11 raises TypeError where a factory returns nothing
            raise BundleError(f"TensorRT cannot open it: {one_line(error)}") from error
        if engine is None:
            raise BundleError(f"TensorRT cannot open it: {logger.said()}")
    return runtime, engine


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
        self._cuda, self._making, self._logger = cuda, threading.Lock(), _logger(trt.__name__)
        engine = opened[1]
        self.inputs, self.outputs, self._own = _signature(trt, engine, spec)
        free = {tensor.name for tensor in spec.inputs if tensor.shape[:1] == (None,)}
        shapes = {tensor.name: _range(engine, tensor.name) for tensor in self.inputs}
        self.batching = Batching(shapes, free & set(shapes))
        dynamic = any(-1 in tuple(engine.get_tensor_shape(name)) for name in shapes)
        if dynamic and int(str(trt.__version__).partition(".")[0]) == 8:
            contexts = 1  # TensorRT 8 has one context for each optimisation profile
        self._pool = Pool(self._new_slot, Slot.free, contexts)

    def run(self, names: Sequence[str], feed: Mapping[str, Any]) -> Sequence[Any]:
        """Return the outputs ``names`` for input name -> numpy array or tensor on the GPU.

        Outputs are arrays of numpy, or GpuArrays where any input is on the GPU. Raises DataError
        for inputs that the engine does not take, RuntimeError where TensorRT or CUDA fails.
        """
        with self._pool.item() as slot:
            return self._run(slot, names, feed)

    def best_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes that the engine is fastest at, by input."""
        return {name: limits.best for name, limits in self.batching.shapes.items()}

    def warm_up(self, names: Sequence[str], feed: Mapping[str, Any]) -> None:
        """Make all contexts that there may be and run each once."""
        self._pool.use_all(lambda slot: self._run(slot, names, feed))

    def close(self) -> None:
        """Free what no call uses, and the rest when those that run are done."""
        self._pool.close()
        with self._making:
            self._opened = None

    def _run(self, slot: Slot, names: Sequence[str], feed: Mapping[str, Any]) -> Sequence[Any]:
        try:
            return slot.run(names, feed, self.batching)
        except RefusedError as error:
            raise RuntimeError(f"{error}: {self._logger.said()}") from error

    def _new_slot(self) -> Slot:
        self._cuda.make_current()
        with self._making:
            if self._opened is None:
                raise closed()
            context = self._opened[1].create_execution_context()
            if context is None:
                raise RuntimeError(f"TensorRT gives no execution context: {self._logger.said()}")
            return Slot(context, self._opened, self._cuda, self._own, (self.inputs, self.outputs))


def _signature(trt: Any, engine: Any, spec: ModelSpec) -> tuple[Specs, Specs, dict[str, str]]:
    """Return inputs and outputs as callers know them, and the engine's own dtypes by name.

    An axis that ``spec`` leaves free is free, whatever the engine was built for: a batch of another
    size is split, and what does not fit is refused by the call.
    """
    promised = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
    own: dict[str, str] = {}
    found: dict[bool, list[TensorSpec]] = {True: [], False: []}
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise BundleError(f"{name} is a shape, which TensorRT wants on the CPU: not supported")
        own[name] = dtype = tensor_dtype(engine, name)
        axes = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
        wanted = promised.get(name)
        if wanted is not None:
            dtype = "int64" if (dtype, wanted.dtype) == ("int32", "int64") else dtype
            if len(wanted.shape) == len(axes):
                pairs = zip(wanted.shape, axes)  # noqa: B905 - strict= needs Python 3.10
                axes = tuple(None if free is None else size for free, size in pairs)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        found[is_input].append(TensorSpec(name, dtype, axes))
    return tuple(found[True]), tuple(found[False]), own


def tensor_dtype(engine: Any, name: str) -> str:
    """Return the numpy dtype of an engine's tensor; raises BundleError for one that numpy lacks."""
    own = str(engine.get_tensor_dtype(name).name)
    if own not in _DTYPES:
        raise BundleError(f"{name} is {own}, which numpy does not have: not supported")
    return _DTYPES[own]


def _range(engine: Any, name: str) -> ShapeRange:
    """Return the shapes of the engine's first profile, which is what edgekd builds."""
    fixed = tuple(int(size) for size in engine.get_tensor_shape(name))
    if -1 not in fixed:
        return ShapeRange(fixed, fixed, fixed)
    shapes = engine.get_tensor_profile_shape(name, 0)
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

    def said(self) -> str:
        """Return the last errors on one line."""
        return " ".join("; ".join(self.errors).split()) or "it does not say why"


@lru_cache
def _logger(binding: str) -> _Logger:
    return _Logger(import_module(binding))  # one for the process: TensorRT keeps the first
