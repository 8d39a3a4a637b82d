"""Blocks of a fake-quantized program: parts with one tensor going in and one coming out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from edgekd.graph.cuts import computed, single
from edgekd.quantize.fake import Quantizer, WeightQuantizer
from edgekd.quantize.operations import clamp_ceiling, is_relu

Boundary = tuple[fx.Node, ...]


@dataclass(frozen=True)
class Block:
    """What lies between two boundaries; ``weights`` are the calls of its weight quantizers.

    A boundary is one node, except before the first block (the program's inputs) and behind the
    last (its outputs).
    """

    starts: Boundary
    ends: Boundary
    weights: tuple[fx.Node, ...]


def find_blocks(module: fx.GraphModule) -> list[Block]:
    """Return the blocks with quantized weights, in order; each starts where the last one ended.

    A cut is where a single computed tensor is still needed: behind a residual block, and between
    layers in a row. A block ends behind the activation and the quantizer that follow its last
    layer, so that its output is the tensor as the next layer reads it. Operations without weights
    (pooling) belong to the block after them.
    """
    blocks: list[Block] = []
    start, *ends = _boundaries(module)
    for end in ends:
        weights = tuple(n for n in _between(module, start, end) if _is_weight(module, n))
        if weights:
            blocks.append(Block(start, end, weights))
        elif not (blocks and start == blocks[-1].ends and _finishes(module, start, end)):
            continue
        else:
            blocks[-1] = Block(blocks[-1].starts, end, blocks[-1].weights)
        start = end
    return blocks


def float_name(node: fx.Node) -> str:
    """Return the name that a tensor of the quantized program has in the float one."""
    return str(node.meta.get("quantizes", node.name))


def _boundaries(module: fx.GraphModule) -> list[Boundary]:
    """Return the program's inputs, every single tensor that cuts it in two, and its outputs."""
    nodes = computed(module)
    inputs = tuple(node for node in nodes if node.op == "placeholder")
    found = [inputs, *((node,) for node in single(module, nodes) if node.op != "placeholder")]
    outputs = tuple(module.graph.output_node().all_input_nodes)
    return found if outputs == found[-1] else [*found, outputs]


def _between(module: fx.GraphModule, start: Boundary, end: Boundary) -> list[fx.Node]:
    """Return the nodes behind the last of ``start``, as far as the last of ``end``."""
    nodes = list(module.graph.nodes)
    first, last = (max((nodes.index(n) for n in edge), default=-1) for edge in (start, end))
    return nodes[first + 1 : last + 1]


def _is_weight(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(
        module.get_submodule(str(node.target)), WeightQuantizer
    )


def _finishes(module: fx.GraphModule, start: Boundary, end: Boundary) -> bool:
    """Tell whether ``end`` is the activation or the quantizer directly behind ``start``."""
    if len(end) != 1 or end[0].all_input_nodes != list(start):
        return False
    (node,) = end
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), Quantizer)
    return is_relu(node) or clamp_ceiling(node) is not None
