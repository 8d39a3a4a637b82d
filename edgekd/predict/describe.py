"""From a node of an ONNX graph, with the shapes of its tensors, to a ``Kernel``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from onnx import NodeProto, helper

from edgekd.predict.kernel import Kernel
from edgekd.predict.movement import movement
from edgekd.predict.tensor import (
    CONVOLUTIONS,
    GLOBAL,
    INTEGER_PRODUCTS,
    KINDS,
    POOLINGS,
    PRODUCTS,
    REDUCTIONS,
    TRANSPOSED,
    Tensor,
)


def describe(node: NodeProto, tensors: Mapping[str, Tensor]) -> Kernel:
    """Return the kernel of ``node``; ``tensors`` has every tensor that it reads or writes."""
    reads = [tensors[name] for name in node.input if name]
    writes = [tensors[name] for name in node.output if name in tensors]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    numbers = _numbers(node, reads, writes, attributes)
    written = sum(t.n_bytes for t in writes)
    stored = sum(t.n_bytes for t in reads if t.stored)
    return Kernel(
        name=node.name or (node.output[0] if node.output else node.op_type),
        op=node.op_type,
        kind=_kind(node, reads, numbers),
        arithmetic=_arithmetic(node, reads, writes),
        read=0 if node.op_type == "Shape" else sum(t.n_bytes for t in reads if not t.stored),
        weights=min(stored, written) if node.op_type == "Gather" else stored,
        written=written,
        layout=_layout(node, attributes),
        **numbers,
    )


def _kind(node: NodeProto, reads: list[Tensor], numbers: Mapping[str, int]) -> str:
    op = node.op_type
    if op in CONVOLUTIONS:
        single = numbers["groups"] > 1 and numbers["inner"] == 1
        return "depthwise" if single else "conv"
    if op in (*GLOBAL, "ReduceMean", "QLinearReduceMean"):
        return "globalpool" if len(reads[0].shape) > 3 else "reducemean"
    plain: str = op.removeprefix("QLinear").removeprefix("Nhwc").lower()
    return KINDS.get(op, plain)


def _layout(node: NodeProto, attributes: Mapping[str, Any]) -> int:
    if node.domain == "com.microsoft.nchwc":
        return 1
    return 2 * (bool(attributes.get("channels_last")) or node.op_type.startswith("Nhwc"))


def _arithmetic(node: NodeProto, reads: list[Tensor], writes: list[Tensor]) -> str:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return "float32"
    found = reads[0].dtype if reads else (writes[0].dtype if writes else "float32")
    if found in ("int8", "uint8"):
        return "int8"
    return found if found in ("float16", "bfloat16") else "float32"


def _numbers(
    node: NodeProto, reads: list[Tensor], writes: list[Tensor], attributes: Mapping[str, Any]
) -> dict[str, int]:
    op = node.op_type
    if not reads or not writes:
        return {"outer": writes[0].size if writes else 1}
    if op in CONVOLUTIONS:
        return _convolution(node, reads, writes[0], attributes)
    if op in TRANSPOSED:
        return _transposed(node, reads, writes[0], attributes)
    if op in (*PRODUCTS, *INTEGER_PRODUCTS):
        return _product(node, reads, writes[0], attributes)
    if op in (*POOLINGS, *GLOBAL) or _is_pooling(op, reads[0], writes[0]):
        return _pooling(node, reads[0], writes[0], attributes)
    return movement(node, reads, writes, attributes)


def _is_pooling(op: str, data: Tensor, result: Tensor) -> bool:
    """Tell whether a reduction takes all positions of an image."""
    if op not in REDUCTIONS or len(data.shape) != 4:
        return False
    return result.size <= math.prod(data.shape[:2])


def _weight(node: NodeProto, reads: list[Tensor]) -> Tensor:
    return reads[3 if node.op_type.startswith("QLinear") else 1]


def _convolution(
    node: NodeProto, reads: list[Tensor], result: Tensor, attributes: Mapping[str, Any]
) -> dict[str, int]:
    weight = _weight(node, reads).shape  # (out, in / groups, *kernel), blocks filled up
    last = _layout(node, attributes) == 2
    channels = result.shape[-1] if last else result.shape[1]
    places = math.prod(result.shape) // max(channels, 1)
    groups = attributes.get("group", 1)
    channels_in = reads[0].shape[-1] if last else reads[0].shape[1]
    inner, window = max(1, channels_in // groups), math.prod(weight[2:])
    return {
        "macs": result.size * inner * window,
        "inner": inner,
        "outer": channels,
        "places": places,
        "window": window,
        "stride": math.prod(attributes.get("strides", [1])),
        "groups": groups,
    }


def _transposed(
    node: NodeProto, reads: list[Tensor], result: Tensor, attributes: Mapping[str, Any]
) -> dict[str, int]:
    weight = _weight(node, reads).shape  # (in, out / groups, *kernel)
    window = math.prod(weight[2:])
    return {
        "macs": reads[0].size * weight[1] * window,
        "inner": weight[0],
        "outer": result.shape[1],
        "places": result.size // result.shape[1],
        "window": window,
        "stride": math.prod(attributes.get("strides", [1])),
        "groups": attributes.get("group", 1),
    }


def _product(
    node: NodeProto, reads: list[Tensor], result: Tensor, attributes: Mapping[str, Any]
) -> dict[str, int]:
    left = reads[0].shape
    right = reads[3] if node.op_type in ("QGemm", "QLinearMatMul") else reads[1]
    inner = left[-2] if attributes.get("transA") and len(left) > 1 else left[-1]
    if node.op_type == "MatMulNBits":
        inner = attributes["K"]
    outer = result.shape[-1]
    # A right side with axes of its own is one product for each of them.
    batches = 1 if right.stored else math.prod(right.shape[:-2])
    return {
        "macs": result.size * inner,
        "inner": inner,
        "outer": outer,
        "places": max(1, result.size // max(outer, 1) // max(batches, 1)),
        "window": 1 if right.stored else 2,
        "stride": 1 + bool(attributes.get("transB")) if not right.stored else 1,
        "groups": batches,
    }


def _pooling(
    node: NodeProto, data: Tensor, result: Tensor, attributes: Mapping[str, Any]
) -> dict[str, int]:
    last = _layout(node, attributes) == 2
    channels = max(1, data.shape[-1] if last else data.shape[1])
    everything = data.size // max(data.shape[0] * channels, 1)
    whole = node.op_type not in POOLINGS
    return {
        "inner": everything,
        "outer": channels,
        "places": max(1, result.size // channels),
        "window": everything if whole else math.prod(attributes.get("kernel_shape", [1])),
        "stride": 1 if whole else math.prod(attributes.get("strides", [1])),
    }
