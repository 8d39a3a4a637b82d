"""From a node of an ONNX graph, with the shapes of its tensors, to a ``Kernel``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, helper

from edgekd.predict.kernel import Kernel

Shape = tuple[int, ...]

CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger")
PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "TransposeMatMul", "MatMulNBits")
INTEGER_PRODUCTS = (
    "QGemm",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
)
POOLINGS = ("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool", "NhwcMaxPool")
GLOBAL = ("GlobalAveragePool", "GlobalMaxPool", "QLinearGlobalAveragePool")
REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "QLinearReduceMean")
ROWS = (  # each row of the last axis by itself
    "Softmax",
    "LogSoftmax",
    "QLinearSoftmax",
    "LayerNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "RMSNormalization",
)
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
ALONG = ("Concat", "QLinearConcat", "Split", "Slice", "Pad", "Gather")
SAME_KIND = {"FastGelu": "gelu", "QuickGelu": "quickgelu", "LogSoftmax": "softmax"}


@dataclass(frozen=True)
class Tensor:
    """A tensor's shape, the bytes of one number, its type, and whether it is stored."""

    shape: Shape
    item_bytes: float
    dtype: str
    stored: bool = False

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of all its numbers."""
        return math.ceil(self.size * self.item_bytes)


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
    if op in ("ConvTranspose", "QLinearConvTranspose"):
        return "conv_transpose"
    if op in (*PRODUCTS, *INTEGER_PRODUCTS):
        return "matmul"
    if op in VIEWS:
        return "view"
    if op in ("ReorderInput", "ReorderOutput"):
        return "reorder"
    plain = op.removeprefix("QLinear").removeprefix("Nhwc")
    if op in (*GLOBAL, "ReduceMean", "QLinearReduceMean"):
        return "globalpool" if len(reads[0].shape) > 3 else "reducemean"
    return SAME_KIND.get(op, plain.lower())


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
    if op in ("ConvTranspose", "QLinearConvTranspose"):
        return _transposed(node, reads, writes[0], attributes)
    if op in (*PRODUCTS, *INTEGER_PRODUCTS):
        return _product(node, reads, writes[0], attributes)
    if op == "Attention":
        return _attention(reads, writes[0])
    if op in (*POOLINGS, *GLOBAL):
        return _pooling(node, reads[0], writes[0], attributes)
    return _movement(node, reads, writes, attributes)


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


def _attention(reads: list[Tensor], result: Tensor) -> dict[str, int]:
    batch, tokens, width = (*reads[0].shape, 1, 1, 1)[:3]
    project = reads[1].size * batch * tokens
    return {
        "macs": project + 2 * batch * tokens * tokens * result.shape[-1],
        "inner": width,
        "outer": result.shape[-1],
        "places": batch * tokens,
    }


def _pooling(
    node: NodeProto, data: Tensor, result: Tensor, attributes: Mapping[str, Any]
) -> dict[str, int]:
    last = _layout(node, attributes) == 2
    channels = max(1, data.shape[-1] if last else data.shape[1])
    everything = data.size // max(data.shape[0] * channels, 1)
    whole = node.op_type in GLOBAL
    return {
        "inner": everything,
        "outer": channels,
        "places": max(1, result.size // channels),
        "window": everything if whole else math.prod(attributes.get("kernel_shape", [1])),
        "stride": 1 if whole else math.prod(attributes.get("strides", [1])),
    }


def _movement(
    node: NodeProto, reads: list[Tensor], writes: list[Tensor], attributes: Mapping[str, Any]
) -> dict[str, int]:
    """Return the shape of what computes little: how it walks through memory."""
    op, data, result = node.op_type, reads[0], max(writes, key=lambda t: t.size)
    last = result.shape[-1] if result.shape else 1
    shape = {"outer": last, "inner": last, "places": result.size // max(last, 1)}
    if op in ROWS:
        row = data.shape[-1] if data.shape else 1
        return {"inner": row, "outer": row, "places": data.size // max(row, 1)}
    if op in REDUCTIONS and len(data.shape) == 4 and result.size <= math.prod(data.shape[:2]):
        return _pooling(node, data, result, {"kernel_shape": data.shape[2:]})
    if op in REDUCTIONS:
        inner = data.size // max(result.size, 1)
        along = int(bool(data.shape) and bool(result.shape) and data.shape[-1] == result.shape[-1])
        return {"inner": inner, "outer": last, "places": result.size, "stride": 1 + along}
    if op == "Transpose":
        return {**shape, **_transpose(data.shape, attributes)}
    if op in ("ReorderInput", "ReorderOutput"):
        return {**shape, "stride": 1 + (op == "ReorderOutput")}
    if op in ALONG:
        axis = _axis(op, data, result, attributes)
        runs = [math.prod(t.shape[axis:]) for t in (*reads, *writes) if len(t.shape) > axis]
        run = min(runs, default=1)
        many = max(len([t for t in reads if t.size > 1]), len(writes))
        places = sum(t.size for t in writes) // max(run, 1)
        return {"inner": run, "outer": last, "places": places, "groups": many}
    if op in ("Resize", "Upsample"):
        linear = attributes.get("mode", b"nearest") not in (b"nearest", "nearest")
        return {**shape, "stride": 1 + linear}
    if len(reads) > 1 and op not in VIEWS:
        return {**shape, "groups": _broadcast([t for t in reads if t.size > 1], result)}
    return shape


def _transpose(shape: Shape, attributes: Mapping[str, Any]) -> dict[str, int]:
    """Return the run that stays together; ``stride``: no axis moves (1), one (2), more (3)."""
    order = list(attributes.get("perm", range(len(shape))[::-1]))
    kept = 0
    while kept < len(order) and order[-1 - kept] == len(order) - 1 - kept:
        kept += 1
    real = [axis for axis in order if shape[axis] > 1]
    single = any(_without(real, n) == sorted(_without(real, n)) for n in range(len(real)))
    way = 1 if real == sorted(real) else (2 if single else 3)
    return {"inner": math.prod(shape[len(shape) - kept :]), "stride": way}


def _without(order: list[int], index: int) -> list[int]:
    return order[:index] + order[index + 1 :]


def _axis(op: str, data: Tensor, result: Tensor, attributes: Mapping[str, Any]) -> int:
    """Return the first axis along which the operation does not simply go on."""
    if op in ("Slice", "Pad"):
        pairs = enumerate(zip(data.shape, result.shape, strict=False))
        differ = [axis for axis, (a, b) in pairs if a != b]
        return max(differ, default=0)
    axis = int(attributes.get("axis", 0))
    rank = len(result.shape) if op == "Concat" else len(data.shape)
    return axis % max(rank, 1) + (op == "Gather")


def _broadcast(reads: list[Tensor], result: Tensor) -> int:
    """Return 1 for equal shapes or numbers, 2 for a repeated tail, 3 for anything else."""
    way = 1
    for tensor in reads:
        if tensor.size == result.size:
            continue
        core = [n for n in tensor.shape if n > 1]
        tail = [n for n in result.shape if n > 1]
        way = max(way, 2 if core == tail[len(tail) - len(core) :] else 3)
    return way
