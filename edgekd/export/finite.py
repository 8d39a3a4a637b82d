"""Whether a model gives numbers, and if not, where NaN or infinity comes up first."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgekd.data.source import Dataset
from edgekd.export.parity import Outputs


def not_finite(model: bytes, outputs: Outputs, data: Dataset) -> str | None:
    """Say where a model fails whose ``outputs`` for the validation samples are not all finite.

    None if they are. Runs the first sample that fails once more, to find the operation.
    """
    bad = [~np.isfinite(values.reshape(len(values), -1)).all(1) for values in outputs]
    failed = np.flatnonzero(np.any(bad, axis=0))
    if not failed.size:
        return None
    inputs, _ = data.inputs(data.validation, failed[:1])
    place = first_not_finite(model, inputs) or "its output"
    count = f"{failed.size} of {len(outputs[0])} validation samples"
    return f"NaN or infinity for {count}, first in {place}"


def first_not_finite(model: bytes, inputs: dict[str, NDArray[np.generic]]) -> str | None:
    """Return the name of the first node whose output has NaN or infinity for these inputs.

    ``model`` is run as it is written, with every tensor as an output, so give few samples.
    """
    proto = onnx.load_from_string(model)
    found = {name: node.name for node in proto.graph.node for name in node.output if name}
    ends = {value.name for value in proto.graph.output}
    for name in found:
        if name not in ends:
            proto.graph.output.add().name = name
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = dict(
        zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True)
    )
    for name, node in found.items():
        value = values[name]
        if value.dtype.kind == "f" and not np.all(np.isfinite(value)):
            return str(node)
    return None
