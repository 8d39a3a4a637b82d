"""Copies of an ONNX model that do more work in the model itself, by a wanted share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.bench.pairs import centre
from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import Variant
from edgekd.gate.latency import BASELINE, CANDIDATE, run_process

# Side of the square matrices that are multiplied -> about the microseconds of a product.
_SIDES = {8: 0.3, 16: 0.5, 32: 1.0, 64: 4.0, 128: 30.0}
_MANY = 200  # products that slow a copy down by a fifth or more
_PROCESSES = 6


def slow_copy(model: Path, copy: Path, products: int, side: int) -> None:
    """Write ``copy``: the model with a chain of ``side`` x ``side`` matrix products beside it.

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
        "slow_shape": np.array([side, side], np.int64),
        "slow_factor": np.eye(side, dtype=np.float32),
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


def slower_copies(
    model: Path, folder: Path, shares: Sequence[float], protocol: Protocol
) -> dict[float, Path]:
    """Return for each share a copy that takes about so much longer.

    What a product adds is measured on a copy that is far slower than any that is wanted, so that
    noise of a per cent does not matter; what the chain adds by itself, on each copy.
    """
    trial = run_process({BASELINE: Variant(model), CANDIDATE: Variant(model)}, protocol, 0, None)
    call_us = float(np.median(trial["samples_ns"][BASELINE])) / 1e3
    side = next((side for side, us in _SIDES.items() if us > call_us / 2000), max(_SIDES))

    def measured(path: Path, products: int) -> float:
        slow_copy(model, path, products, side)
        pair = {BASELINE: Variant(model), CANDIDATE: Variant(path)}
        found = [
            centre(run_process(pair, protocol, number, None), BASELINE, CANDIDATE, "running")
            for number in range(_PROCESSES)
        ]
        return math.expm1(statistics.median(value.log_ratio for value in found))

    trials = folder / "trial.onnx"
    each = (measured(trials, _MANY) - measured(trials, 1)) / (_MANY - 1)
    copies = {}
    for share in shares:
        copies[share] = folder / f"{model.stem}-{share:g}.onnx"
        guess = max(1, round(share / each))
        off = measured(copies[share], guess) - share
        slow_copy(model, copies[share], max(1, round(guess - off / each)), side)
    return copies
