"""The layers of a program as shapes, and how their sizes follow from the units that are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx

from edgekd.bench.layers import LayerShape
from edgekd.graph.layers import CONVOLUTIONS, TRANSPOSED
from edgekd.graph.tensors import constant, is_op, layer_name
from edgekd.prune.groups import Group, Member

aten = torch.ops.aten


@dataclass(frozen=True)
class UnitSize:
    """By how much a layer shrinks for one removed unit of a group (a mean where units differ)."""

    outputs: float = 0.0
    inputs: float = 0.0
    groups: float = 0.0


@dataclass(frozen=True)
class Layer:
    """A layer whose time is known from its shape: ``shape`` is that of the whole program.

    ``node`` names it in the graph, ``name`` in the model. ``units`` maps group name -> UnitSize.
    """

    node: str
    name: str
    shape: LayerShape
    units: Mapping[str, UnitSize]

    def shape_after(self, removed: Mapping[str, int]) -> LayerShape:
        """Return the shape when so many units of the groups are gone."""
        taken = [(unit, removed.get(group, 0)) for group, unit in self.units.items()]
        return self.shrunk(
            sum(unit.outputs * n for unit, n in taken),
            sum(unit.inputs * n for unit, n in taken),
            sum(unit.groups * n for unit, n in taken),
        )

    def shrunk(self, outputs: float, inputs: float, groups: float) -> LayerShape:
        """Return the shape without so many outputs, inputs and groups; each keeps at least one."""
        return replace(
            self.shape,
            outputs=max(1, round(self.shape.outputs - outputs)),
            inputs=max(1, round(self.shape.inputs - inputs)),
            groups=max(1, round(self.shape.groups - groups)),
        )


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n.name] = tuple(result.shape)
        return result


@torch.no_grad()
def record_shapes(
    module: fx.GraphModule, example: tuple[Tensor, ...]
) -> dict[str, tuple[int, ...]]:
    """Return node name -> shape of its output for one sample."""
    recorder = _Recorder(module)
    recorder.run(*(tensor[:1] for tensor in example))
    return recorder.shapes


def read_layers(
    module: fx.GraphModule, groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]]
) -> list[Layer]:
    """Return the convolutions and linear layers with stored weights.

    ``shapes`` are those of ``record_shapes``. Products of computed tensors are not among them:
    what they take is known when the sizes of their operands are (``edgekd/prune/sizes.py``).
    """
    layers = []
    for node in module.graph.nodes:
        weight = constant(module, node.args[1]) if len(node.args) > 1 else None
        if weight is None or not is_op(node, *CONVOLUTIONS, *TRANSPOSED, aten.linear.default):
            continue
        shape = _shape(node, tuple(weight.shape), shapes)
        target = str(node.args[1].target)
        sizes = {group.name: _unit_size(group, target, shape) for group in groups}
        touched = {name: size for name, size in sizes.items() if size != UnitSize()}
        layers.append(Layer(node.name, layer_name(node), shape, touched))
    return layers


def _shape(
    node: fx.Node, weight: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]
) -> LayerShape:
    operand = shapes[node.all_input_nodes[0].name]
    if is_op(node, aten.linear.default):
        outputs, inputs = weight
        return LayerShape("linear", inputs, outputs, (math.prod(operand[:-1]),))
    given, kernel = arguments(node), weight[2:]
    groups = int(given["groups"])
    spread = {name: _for_axes(given[name], kernel) for name in ("stride", "dilation")}
    padding = _padding(given["padding"], kernel, spread["dilation"])
    op: Literal["conv", "conv_transpose"] = "conv"
    inputs, outputs = weight[1] * groups, weight[0]
    more: tuple[int, ...] = ()
    if is_op(node, *TRANSPOSED):
        op, inputs, outputs = "conv_transpose", weight[0], weight[1] * groups
        more = _for_axes(given["output_padding"], kernel)
    return LayerShape(
        op,
        inputs,
        outputs,
        operand[-len(kernel) :],
        kernel,
        padding=padding,
        output_padding=more,
        groups=groups,
        **spread,
    )


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of an ATen call by name, defaults included."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    values = {entry.name: entry.default_value for entry in schema}
    names = [entry.name for entry in schema]
    return {**values, **dict(zip(names, node.args, strict=False)), **node.kwargs}


def _for_axes(value: Any, kernel: tuple[int, ...]) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return tuple(map(int, numbers * (len(kernel) // len(numbers))))


def _padding(value: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Return the padding of both sides; ``same`` of an even kernel has one element more."""
    if value == "same":
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    return _for_axes(0 if value == "valid" else value, kernel)


def _unit_size(group: Group, weight: str, shape: LayerShape) -> UnitSize:
    """Return what one unit of ``group`` is to the layer that this weight belongs to."""
    members = {m.axis: m for m in (*group.produced, *group.consumed) if m.tensor == weight}
    first, second = (_per_unit(members.get(axis)) for axis in (0, 1))
    turned = shape.op == "conv_transpose"  # its weight is (inputs, outputs / groups, ...)
    ends = (shape.inputs, shape.outputs) if turned else (shape.outputs, shape.inputs)
    near, far = (end // shape.groups for end in ends)  # of one group of the convolution
    lost = 0.0
    if shape.groups > 1 and 0 in members and _whole_blocks(members[0], near):
        lost = first / near
        second_total = lost * far
    else:
        second_total = second * shape.groups
    outputs, inputs = (second_total, first) if turned else (first, second_total)
    return UnitSize(outputs, inputs, lost)


def _per_unit(member: Member | None) -> float:
    if member is None or not member.indices:
        return 0.0
    return sum(map(len, member.indices)) / len(member.indices)


def _whole_blocks(member: Member, size: int) -> bool:
    """Tell whether removing a unit removes whole groups of a grouped convolution."""
    return all(
        len(set(unit)) == size * len({index // size for index in unit}) for unit in member.indices
    )
