"""Which rows of a tensor inside a graph belong to which sample of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, shape_inference

from edgekd.errors import ExportError
from edgekd.runtime.tensors import DTYPES, one_line
from edgekd.spec import TensorSpec

_BATCHES = 2, 3


def static_types(model: onnx.ModelProto) -> dict[str, list[TensorSpec]]:
    """Return every tensor's type and shape for a batch of 2, then 3; only where both are known."""
    found: dict[str, list[TensorSpec]] = {}
    for batch in _BATCHES:
        fixed = onnx.ModelProto()
        fixed.CopyFrom(model)
        del fixed.graph.value_info[:]
        for value in fixed.graph.input:
            dims = value.type.tensor_type.shape.dim
            if dims and not dims[0].HasField("dim_value"):
                dims[0].dim_value = batch
        for value in fixed.graph.output:
            value.type.tensor_type.ClearField("shape")
        inferred = shape_inference.infer_shapes(fixed, data_prop=True).graph
        for value in [*inferred.value_info, *inferred.output]:
            dims = value.type.tensor_type.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                shape = tuple(int(dim.dim_value) for dim in dims)
                dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                found.setdefault(value.name, []).append(TensorSpec(value.name, str(dtype), shape))
    return {name: types for name, types in found.items() if len(types) == len(_BATCHES)}


def rows_per_sample(types: Sequence[TensorSpec]) -> tuple[int, TensorSpec | None]:
    """Return how many rows one sample has, and the tensor as ``(N, ...)`` or ``(N, rows, ...)``.

    ``types`` are those for a batch of 2 and 3. The tensor is None where its rows do not grow with
    the batch, or its dtype is none that crosses between models.
    """
    if len(types) != len(_BATCHES) or types[0].dtype not in DTYPES.values():
        return 0, None
    (first, *rest), (second, *same) = types[0].shape or (0,), types[1].shape or (0,)
    rows = (first or 0) // _BATCHES[0]
    if rest != same or rows < 1 or [first, second] != [rows * batch for batch in _BATCHES]:
        return 0, None
    inner = (rows, *rest) if rows > 1 else rest
    return rows, TensorSpec(types[0].name, types[0].dtype, (None, *inner))


def check_rows(model: bytes, names: Sequence[str]) -> None:
    """Raise ExportError unless the rows of a sample lie together in the tensors ``names``.

    A shape ``(N * tokens, width)`` does not tell whether samples or tokens come first. So two
    samples are run in both orders, and the two halves of the tensor must change places.
    """
    if not names:
        return
    proto = onnx.load_from_string(model)
    del proto.graph.output[:]
    for name in names:
        proto.graph.output.add().name = name
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    generator = np.random.default_rng(0)
    feed = {value.name: _pair(value, generator) for value in session.get_inputs()}
    try:
        one = session.run(list(names), feed)
        two = session.run(list(names), {n: np.ascontiguousarray(a[::-1]) for n, a in feed.items()})
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise ExportError(
            f"the cut at {names[0]} cannot be checked, since the model fails on small numbers: "
            f"{one_line(error)}"
        ) from error
    for name, straight, turned in zip(names, one, two, strict=True):
        half = len(straight) // 2
        back = np.concatenate([turned[half:], turned[:half]]).astype(np.float64)
        if not np.allclose(straight.astype(np.float64), back, 1e-3, 1e-3, equal_nan=True):
            raise ExportError(
                f"the rows of one sample do not lie together in {name}: a batch cannot be cut "
                "there; put the batch axis first in the model"
            )


def _pair(value: onnxruntime.NodeArg, generator: np.random.Generator) -> NDArray[np.generic]:
    """Return two different samples of an input; 0 and 1 are in the range of every table."""
    shape = [size if isinstance(size, int) else 2 for size in value.shape]
    dtype = np.dtype(DTYPES[value.type])
    if dtype.kind == "f":
        return generator.normal(size=shape).astype(dtype)
    array = generator.integers(0, 2, shape)
    array[0] = 1
    return array.astype(dtype)
