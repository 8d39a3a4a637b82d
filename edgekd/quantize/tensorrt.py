"""Quantizer placement for TensorRT: symmetric int8 on the inputs of layers, nothing in between.

TensorRT fuses convolution, bias, residual sum and ReLU into one kernel if no quantizer stands
between them. So quantizers stand on the inputs of convolutions and linear layers, and on the skip
branch of a residual sum, where the fused kernel needs the int8 format. One tensor has one scale,
also when a layer and a skip branch read it. In attention both products read quantizers on both
sides (queries and keys, softmax and values), so that TensorRT can fuse all of it in int8; softmax,
LayerNorm and GELU read float. (NVIDIA, TensorRT Developer Guide, "Working with Quantized Types",
Q/DQ placement recommendations; NVIDIA ModelOpt places the same way.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from edgekd.graph.tensors import is_op, layer_name
from edgekd.quantize.operations import (
    CONVOLUTIONS,
    is_product,
    is_tensor_pair,
    is_weighted,
)
from edgekd.quantize.placement import NOTHING, Placement, QuantizedTensor, Scheme, node_inputs

SCHEME = Scheme(symmetric=True, integer_bias=False, integer_embeddings=False, absorbs_relu=False)


def place(module: fx.GraphModule, in_float: Mapping[str, str] = NOTHING) -> Placement:
    """Choose the tensors and weights to quantize in a canonical program.

    ``in_float`` keeps layers, products and sums in float: layer name -> the reason to report.
    """
    placement = Placement()
    readers: dict[fx.Node, set[str]] = {}
    for node in module.graph.nodes:
        is_sum = is_op(node, torch.ops.aten.add.Tensor)
        known = is_sum or is_product(node) or is_weighted(module, node)
        if known and layer_name(node) in in_float:
            placement.reasons[layer_name(node)] = in_float[layer_name(node)]
        elif is_weighted(module, node):
            placement.weights.append(node.name)
            readers.setdefault(node_inputs(node)[0], set()).add(node.name)
        elif is_product(node):
            for operand in node_inputs(node):
                readers.setdefault(operand, set()).add(node.name)
        elif is_sum:
            skip = skip_branch(node)
            if skip is None:
                placement.reasons[node.name] = "not a residual sum behind a convolution"
            else:
                readers.setdefault(skip, set()).add(node.name)
    for node in module.graph.nodes:
        if node in readers:
            placement.tensors.append(QuantizedTensor(node.name, frozenset(readers[node])))
    return placement


def skip_branch(add: fx.Node) -> fx.Node | None:
    """Return the operand of a residual sum that is not fused into the sum's kernel.

    The other operand is a convolution that nothing else reads. If both are, the one with the
    longer way back to where the branches part is fused.
    """
    if not is_tensor_pair(add):
        return None
    left, right = node_inputs(add)[0], node_inputs(add)[-1]
    fusable = [n for n in (left, right) if is_op(n, *CONVOLUTIONS) and len(n.users) == 1]
    if not fusable or left is right:
        return None
    if len(fusable) == 2:
        fused = left if _depth(left, right) >= _depth(right, left) else right
    else:
        fused = fusable[0]
    return right if fused is left else left


def _depth(node: fx.Node, other: fx.Node) -> int:
    """Count the operations from ``node`` back to the first tensor that ``other`` depends on too."""
    common = _ancestors(other)
    depth, frontier = 0, {node}
    while frontier and not frontier & common:
        depth += 1
        frontier = {parent for n in frontier for parent in node_inputs(n)}
    return depth


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    frontier = [node]
    while frontier:
        for parent in node_inputs(frontier.pop()):
            if parent not in found:
                found.add(parent)
                frontier.append(parent)
    return found
