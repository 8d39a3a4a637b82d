"""Which kernels ONNX Runtime's CPU provider would launch for a model, and with which shapes.

What takes time is what the runtime made of the graph: fused layers, integer kernels, layouts
changed at the borders. nn-Meter (Zhang et al., "nn-Meter", MobiSys 2021, section 3) had to find
such fusions out by experiments; ONNX Runtime writes its optimised graph down.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from edgekd.errors import ExportError
from edgekd.predict.describe import describe
from edgekd.predict.kernel import Kernel
from edgekd.predict.tensor import Tensor

Level = Literal["all", "extended"]
"""How far to optimise. ``all`` is what runs here, with layouts for this very processor; up to
``extended`` the fusions depend on ONNX Runtime's version only, so it is for other processors."""

SOURCE = Path("model.onnx")


def read_graph(
    model: bytes | Path,
    level: Level,
    *,
    batch: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Kernel]:
    """Return the kernels of ``model`` in the order of its graph.

    Open first axes are ``batch`` samples; ``shapes`` gives whole shapes of inputs. Raises
    ExportError when another axis is open, or when ONNX Runtime refuses the model.
    """
    return read_optimised(optimised(model, level), batch=batch, shapes=shapes)


def optimised(model: bytes | Path, level: Level) -> onnx.ModelProto:
    """Return the graph as ONNX Runtime would run it. Raises ExportError."""
    levels = onnxruntime.GraphOptimizationLevel
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SOURCE
        options = _options(levels.ORT_ENABLE_ALL if level == "all" else levels.ORT_ENABLE_EXTENDED)
        options.optimized_model_filepath = str(path)
        _open(str(model) if isinstance(model, Path) else model, options)
        return onnx.load(path)


def read_optimised(
    model: onnx.ModelProto,
    *,
    batch: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Kernel]:
    """Return the kernels of a graph that is optimised already."""
    fix_inputs(model, batch, shapes or {})
    tensors = infer_tensors(model)
    kernels = []
    for node in model.graph.node:
        missing = [name for name in (*node.input, *node.output) if name and name not in tensors]
        if missing:
            raise ExportError(
                f"the shape of {missing[0]!r}, of {node.op_type}, depends on the data and cannot "
                "be predicted; replace what computes it, or measure with edgekd bench"
            )
        kernels.append(describe(node, tensors))
    return kernels


def fix_inputs(model: onnx.ModelProto, batch: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write the sizes of all axes of the inputs into ``model``. Raises ExportError."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    unknown = [name for name in shapes if name not in {value.name for value in inputs}]
    if unknown:
        names = ", ".join(value.name for value in inputs)
        raise ExportError(f"--input-shape: the model has no input {unknown[0]!r}; it has {names}")
    for value in inputs:
        axes = value.type.tensor_type.shape.dim
        found: list[int | None] = [a.dim_value if a.HasField("dim_value") else None for a in axes]
        wanted: list[int | None] = [*shapes.get(value.name, ())] or [
            batch if axis == 0 and size is None else size for axis, size in enumerate(found)
        ]
        is_open = [axis for axis, size in enumerate(wanted) if size is None]
        if is_open:
            raise ExportError(
                f"axis {is_open[0]} of input {value.name!r} is open: give its shape with "
                f"--input-shape {value.name}:{','.join(str(n or 'N') for n in wanted)}"
            )
        fits = len(wanted) == len(found) and all(
            b in (None, a) for a, b in zip(wanted, found, strict=False)
        )
        if not fits:
            is_given = ",".join(map(str, wanted))
            raise ExportError(f"input {value.name!r} has the shape {found}, not {is_given}")
        for axis, size in zip(axes, wanted, strict=True):
            axis.dim_value = int(size or 0)
    if batch > 1 and not shapes:
        first = [v.type.tensor_type.shape.dim[0].dim_value for v in inputs if _rank(v)]
        if first and batch not in first:
            raise ExportError(f"the model takes batches of {first[0]}, not of {batch}")


def _rank(value: onnx.ValueInfoProto) -> int:
    return len(value.type.tensor_type.shape.dim)


def infer_tensors(model: onnx.ModelProto) -> dict[str, Tensor]:
    """Return every tensor whose shape is known.

    ONNX Runtime infers shapes of its own operations too, which onnx does not know: every tensor
    becomes an output, and constants are folded so that computed shapes are known.
    """
    graph = model.graph
    found = {
        tensor.name: _tensor(tuple(tensor.dims), tensor.data_type, stored=True)
        for tensor in graph.initializer
    }
    for value in graph.input:
        kind = value.type.tensor_type
        sizes = tuple(axis.dim_value for axis in kind.shape.dim)
        found.setdefault(value.name, _tensor(sizes, kind.elem_type))
    known = {value.name for value in graph.output}
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.value_info[:]
    for node in graph.node:
        new = [name for name in node.output if name and name not in known]
        asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
        known.update(new)
    for output in asked.graph.output:  # sizes of the open batch are inferred again
        output.type.tensor_type.ClearField("shape")
        if not output.type.tensor_type.elem_type:
            output.ClearField("type")
    session = _open(
        asked.SerializeToString(),
        _options(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC),
    )
    for argument in session.get_outputs():
        if all(isinstance(size, int) for size in argument.shape):
            dtype = argument.type.removeprefix("tensor(").removesuffix(")")
            found[argument.name] = _named(tuple(argument.shape), dtype)
    return found


def _tensor(shape: tuple[int, ...], data_type: int, *, stored: bool = False) -> Tensor:
    if data_type in (TensorProto.INT4, TensorProto.UINT4):
        return Tensor(shape, 0.5, "int4", stored)
    if data_type == TensorProto.STRING:
        return Tensor(shape, 8, "string", stored)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    return Tensor(shape, dtype.itemsize, dtype.name, stored)


_NAMES = {"float": "float32", "double": "float64", "bfloat16": "bfloat16"}


def _named(shape: tuple[int, ...], dtype: str) -> Tensor:
    name = _NAMES.get(dtype, dtype)
    sizes = {"bfloat16": 2, "string": 8, "int4": 0.5, "uint4": 0.5}
    return Tensor(shape, sizes[name] if name in sizes else np.dtype(name).itemsize, name)


def _options(level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # Weights are not laid out for speed: the session is asked for its graph only.
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _open(model: str | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise ExportError(
            f"ONNX Runtime cannot read the model: {str(error).splitlines()[0][:300]}"
        ) from error
