"""How many numbers the operations of a program write, and what one unit has to do with them."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence

import torch
from torch import fx

from edgekd.bench.layers import LayerShape
from edgekd.graph.layers import PRODUCTS
from edgekd.graph.tensors import is_op
from edgekd.prune.groups import Group
from edgekd.prune.layers import Layer, UnitSize

aten = torch.ops.aten

# What costs nothing in a runtime: another view of the same numbers, or part of the layer before.
_FREE = (
    aten.batch_norm.default,
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.dropout.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    operator.getitem,
)


class Sizes:
    """The elements of every node's output, for one sample, linear in the units that are removed.

    ``elements[node]`` is for the whole program. ``per_unit[node]`` maps group name -> how many of
    them one unit holds. It follows the numbers, not the axes: what is computed from a tensor
    shrinks as that tensor does.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        layers: Sequence[Layer],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.elements = {name: math.prod(shape) for name, shape in shapes.items()}
        self.per_unit: dict[str, dict[str, float]] = {}
        by_node = {layer.node: layer for layer in layers}
        for node in module.graph.nodes:
            if node.name in by_node:
                self.per_unit[node.name] = self._of_layer(by_node[node.name])
            else:
                self.per_unit[node.name] = self._of_other(node)

    def others(self, module: fx.GraphModule, layers: Sequence[Layer]) -> list[str]:
        """Return the names of the nodes that write numbers and are none of the layers."""
        known = {layer.node for layer in layers}
        return [
            node.name
            for node in module.graph.nodes
            if node.op == "call_function"
            and node.name in self.elements
            and node.name not in known
            and not is_op(node, *_FREE)
        ]

    def _of_layer(self, layer: Layer) -> dict[str, float]:
        each = self.elements[layer.node] / layer.shape.outputs
        return {name: unit.outputs * each for name, unit in layer.units.items() if unit.outputs}

    def _of_other(self, node: fx.Node) -> dict[str, float]:
        operands = [n for n in node.all_input_nodes if n.op != "get_attr"]
        if is_op(node, aten.cat.default, aten.stack.default):
            found: dict[str, float] = {}
            for operand in operands:
                for name, count in self.per_unit[operand.name].items():
                    found[name] = found.get(name, 0.0) + count
            return found
        for operand in operands:
            if self.per_unit[operand.name]:
                ratio = self._size(node) / self._size(operand)
                return {n: count * ratio for n, count in self.per_unit[operand.name].items()}
        return {}

    def _size(self, node: fx.Node) -> int:
        """Return the elements of a node, of one that gives several tensors in sum."""
        if node.name in self.elements:
            return self.elements[node.name]
        parts = sum(self.elements.get(user.name, 0) for user in node.users)
        return parts or 1


def read_products(
    module: fx.GraphModule,
    groups: Sequence[Group],
    sizes: Sizes,
    shapes: Mapping[str, tuple[int, ...]],
) -> list[Layer]:
    """Return the products of two computed tensors, as attention has two for every head.

    Of their sizes only the number of products changes, with the heads.
    """
    heads = {group.name for group in groups if group.kind == "heads"}
    layers = []
    for node in module.graph.nodes:
        if not is_op(node, *PRODUCTS) or any(arg.op == "get_attr" for arg in node.all_input_nodes):
            continue
        *batch, rows, inner = shapes[node.args[0].name]
        outputs = shapes[node.args[1].name][-1]
        count = math.prod(batch)
        share = {
            name: UnitSize(groups=held / sizes.elements[node.name] * count)
            for name, held in sizes.per_unit[node.name].items()
            if name in heads
        }
        shape = LayerShape("matmul", inner, outputs, (rows,), groups=count)
        layers.append(Layer(node.name, node.name, shape, share))
    return layers
