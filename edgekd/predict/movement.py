"""The shape of operations that mostly move numbers: how they walk through memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from onnx import NodeProto

from edgekd.predict.tensor import ALONG, REDUCTIONS, ROWS, VIEWS, Shape, Tensor


def movement(
    node: NodeProto, reads: list[Tensor], writes: list[Tensor], attributes: Mapping[str, Any]
) -> dict[str, int]:
    """Return the shape of what computes little: how it walks through memory."""
    op, data, result = node.op_type, reads[0], max(writes, key=lambda t: t.size)
    last = result.shape[-1] if result.shape else 1
    shape = {"outer": last, "inner": last, "places": result.size // max(last, 1)}
    if op in ROWS:
        row = data.shape[-1] if data.shape else 1
        own = {"inner": row, "outer": row, "places": data.size // max(row, 1)}
    elif op in REDUCTIONS:
        own = _reduction(data, result)
    elif op == "Transpose":
        own = _transpose(data.shape, attributes)
    elif op in ("ReorderInput", "ReorderOutput"):
        own = {"stride": 1 + (op == "ReorderOutput")}
    elif op in ALONG:
        own = _along(op, reads, writes, attributes)
    elif op in ("Resize", "Upsample"):
        own = {"stride": 1 + (attributes.get("mode", b"nearest") != b"nearest")}
    elif len(reads) > 1 and op not in VIEWS:
        own = {"groups": _broadcast([t for t in reads if t.size > 1], result)}
    else:
        own = {}
    return {**shape, **own}


def _reduction(data: Tensor, result: Tensor) -> dict[str, int]:
    """Return what becomes one number; ``stride`` is 2 where the last axis stays."""
    stays = bool(data.shape) and bool(result.shape) and data.shape[-1] == result.shape[-1]
    inner = data.size // max(result.size, 1)
    return {"inner": inner, "places": result.size, "stride": 1 + stays}


def _along(
    op: str, reads: list[Tensor], writes: list[Tensor], attributes: Mapping[str, Any]
) -> dict[str, int]:
    """Return the run that is copied at once; ``groups`` is the number of parts."""
    axis = _axis(op, reads[0], max(writes, key=lambda t: t.size), attributes)
    runs = [math.prod(t.shape[axis:]) for t in (*reads, *writes) if len(t.shape) > axis]
    run = min(runs, default=1)
    parts = max(len([t for t in reads if t.size > 1]), len(writes))
    places = sum(t.size for t in writes) // max(run, 1)
    return {"inner": run, "places": places, "groups": parts}


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
