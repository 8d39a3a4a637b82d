"""Steps of weights that FP16 cannot hold, made coarser where that changes nothing that shows."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

LEAST = 2.0**-16  # FP16 holds steps from here on to 1 part in 512
_NEGLIGIBLE = 1 / 16


def widen_steps(graph: onnx.GraphProto) -> None:
    """Raise the steps of almost dead channels to ``LEAST`` in place, and round their codes anew.

    Weight decay leaves channels of nearly 0 in trained networks. They are changed where ``LEAST``
    is at most a sixteenth of the layer's largest step, so that the error they get is as much
    smaller than that of other channels. Layers with fine steps throughout stay as they are.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 3:
            continue
        codes, scale = stored.get(node.input[0]), stored.get(node.input[1])
        if codes is None or scale is None or codes.data_type != TensorProto.INT8:
            continue
        steps = numpy_helper.to_array(scale)
        fine = steps < LEAST
        if steps.ndim != 1 or not fine.any() or steps.max() * _NEGLIGIBLE < LEAST:
            continue
        _rewrite(graph, node, numpy_helper.to_array(codes), steps)


def _rewrite(
    graph: onnx.GraphProto,
    node: NodeProto,
    codes: np.ndarray[tuple[int, ...], np.dtype[np.int8]],
    steps: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> None:
    """Give ``node`` codes and steps of its own, since others may read the old ones."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % codes.ndim
    coarse = np.maximum(steps, np.float32(LEAST))
    shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
    rounded = np.rint(codes * (steps / coarse).reshape(shape)).astype(np.int8)
    for position, value in ((0, rounded), (1, coarse)):
        name = f"{node.input[position]}_widened"
        graph.initializer.append(numpy_helper.from_array(value, name))
        node.input[position] = name
