"""Run a new engine where it was built: what it is made of, whether it is right, how fast it is."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from edgekd.engine.binding import Binding
from edgekd.engine.latency import Bound, example, layer_times_ms, measure
from edgekd.engine.layers import count_precisions, fallbacks, read_layers
from edgekd.engine.verify import answers, compare
from edgekd.errors import BundleError
from edgekd.runtime.cuda import shared_cuda
from edgekd.runtime.engine_manifest import EngineEntry
from edgekd.runtime.tensorrt import open_engine
from edgekd.runtime.tensors import one_line
from edgekd.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[Any]]


def try_engine(
    binding: Binding,
    content: bytes,
    entry: EngineEntry,
    spec: ModelSpec,
    *,
    reference: tuple[Arrays, Arrays, str] | None,
    precision: str,
    logits: bool,
    quantized: Collection[str],
) -> dict[str, Any]:
    """Return ``verification``, ``latency``, ``layers`` (a summary), ``layer_list``, ``warnings``.

    All of it is plain data. The answers are those of the code that production runs
    (``edgekd.runtime.tensorrt``), compared with ``reference``: inputs, outputs and where the inputs
    are from. Raises BundleError where the engine cannot be opened or run.
    """
    verification = None
    if reference is not None:
        inputs, wanted, kind = reference
        session = open_engine(content, entry, spec, contexts=1)
        try:
            found = answers(session, inputs, _rows(entry))
            verification = compare(
                found, wanted, precision=precision, logits=logits, inputs=kind
            ).to_dict()
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"the engine was built, but cannot run: {one_line(error)}") from error
        finally:
            session.close()
    return {"verification": verification, **_look(binding, content, entry, quantized)}


def _rows(entry: EngineEntry) -> int:
    return max(shape.largest[0] if shape.largest else 1 for shape in entry.shapes.values())


def _look(
    binding: Binding, content: bytes, entry: EngineEntry, quantized: Collection[str]
) -> dict[str, Any]:
    """Time the engine and read its layers; with inputs of its best shape, then of its largest."""
    trt, cuda = binding.trt, shared_cuda()
    cuda.make_current()
    try:
        runtime = trt.Runtime(binding.log.own)
        if entry.version_compatible and hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = True
        if entry.dla_core is not None:
            runtime.DLA_core = entry.dla_core
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise RuntimeError(binding.log.errors() or "it does not say why")
        sizes = {name: shape.best for name, shape in entry.shapes.items()}
        largest = {name: shape.largest for name, shape in entry.shapes.items()}
        latency = []
        bound = Bound(engine, cuda, example(engine, sizes))
        try:
            latency.append(measure(bound, sizes))
            inspector = engine.create_engine_inspector()
            # Formats are known for a context's shapes only; pages of TensorRT 8 say ``context``.
            name = "execution_context" if hasattr(inspector, "execution_context") else "context"
            setattr(inspector, name, bound.context)
            text = str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
            times = layer_times_ms(trt, bound)
        finally:
            bound.close()
        if largest != sizes:
            # TensorRT 8 has one context for each optimisation profile: the first one is gone now.
            bound = Bound(engine, cuda, example(engine, largest))
            try:
                latency.append(measure(bound, largest))
            finally:
                bound.close()
    except (RuntimeError, TypeError) as error:  # pybind11 raises TypeError where nothing is made
        raise BundleError(f"the engine was built, but cannot run: {one_line(error)}") from error
    return {"latency": latency, **_layers(text, times, quantized)}


def _layers(text: str, times: Mapping[str, float], quantized: Collection[str]) -> dict[str, Any]:
    """Return a summary and the list; neither, and a warning, where the inspector cannot be read."""
    try:
        layers = read_layers(text, times)
    except BundleError as error:
        return {"layers": None, "layer_list": None, "warnings": [str(error)]}
    off = fallbacks(layers, quantized)
    return {
        "layers": {
            "count": len(layers),
            "precisions": count_precisions(layers),
            "quantized": len(quantized),
            "fallbacks": {name: found for name, found in off.items() if found != "unknown"},
            "unseen": [name for name, found in off.items() if found == "unknown"],
        },
        "layer_list": {
            "layers": [layer.to_dict() for layer in layers],
            "inspector": json.loads(text),
        },
        "warnings": [],
    }
