"""Copies of an ONNX model that do more work in the model itself, by a wanted share."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.bench.pairs import centre
from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import Variant
from edgekd.gate.latency import BASELINE, CANDIDATE, run_process

_SIDE = 32  # of the matrices that are multiplied: a product takes about a microsecond


def slow_copy(model: Path, copy: Path, products: int) -> None:
    """Write ``copy``: the model with a chain of matrix products beside it.

    The chain starts at the first input and ends, times zero, in the first output, so that no
    runtime can leave it out.
    """
    network = onnx.load(model)
    graph = network.graph
    output = graph.output[0].name
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == output:
                node.output[index] = "slow_before"
    kind = graph.output[0].type.tensor_type.elem_type
    constants = {
        "slow_shape": np.array([_SIDE, _SIDE], np.int64),
        "slow_factor": np.eye(_SIDE, dtype=np.float32),
        "slow_zero": np.zeros((), np.float32),
        "slow_all": np.array([0, 1], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    first = graph.input[0]
    rank = len(first.type.tensor_type.shape.dim)
    graph.initializer.append(numpy_helper.from_array(np.arange(rank, dtype=np.int64), "slow_axes"))
    nodes = [
        helper.make_node("Cast", [first.name], ["slow_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["slow_float", "slow_axes"], ["slow_sum"], keepdims=0),
        helper.make_node("Expand", ["slow_sum", "slow_shape"], ["slow_0"]),
    ]
    nodes += [
        helper.make_node("MatMul", [f"slow_{i}", "slow_factor"], [f"slow_{i + 1}"])
        for i in range(products)
    ]
    nodes += [
        helper.make_node("ReduceSum", [f"slow_{products}", "slow_all"], ["slow_last"], keepdims=0),
        helper.make_node("Mul", ["slow_last", "slow_zero"], ["slow_nothing"]),
        helper.make_node("Cast", ["slow_nothing"], ["slow_cast"], to=kind),
        helper.make_node("Add", ["slow_before", "slow_cast"], [output]),
    ]
    graph.node.extend(nodes)
    onnx.save(network, copy)


def slower_by(
    model: Path, folder: Path, share: float, protocol: Protocol, processes: int = 4
) -> Path:
    """Return a copy that takes about ``share`` longer, found by measuring a few copies."""
    products, path = 16, folder / f"{model.stem}-{share:g}.onnx"
    for _ in range(6):
        slow_copy(model, path, products)
        pair = {BASELINE: Variant(model), CANDIDATE: Variant(path)}
        found = [
            centre(run_process(pair, protocol, number, None), BASELINE, CANDIDATE, "running")
            for number in range(processes)
        ]
        slower = math.expm1(float(np.median([value.log_ratio for value in found])))
        if abs(slower - share) < 0.0015:
            break
        factor = share / max(slower, share / 8)
        products = max(1, round(products * min(8.0, factor)))
    return path
