"""Which units of a program depend on each other.

Every tensor gets labels (``labels.py``) by rules, one for each kind of operation (``rules_*.py``).
This is the dependency graph of Fang et al., "DepGraph", CVPR 2023, arXiv 2301.12900, kept per
element instead of per layer, so that parts of an axis can belong to different layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgekd.graph.program import output_nodes
from edgekd.graph.tensors import is_op
from edgekd.model.trace import batch_of_two
from edgekd.prune.grouping import Units, find_groups
from edgekd.prune.groups import Dependencies
from edgekd.prune.labels import Array, Lock
from edgekd.prune.rectangles import make_rectangular
from edgekd.prune.rules_layers import LAYERS
from edgekd.prune.rules_parts import PARTS
from edgekd.prune.rules_products import PRODUCTS
from edgekd.prune.rules_shapes import SHAPES
from edgekd.prune.rules_values import VALUES, elementwise
from edgekd.prune.scope import TRANSPOSES, Scope, UnfollowedError, source_line

RULES = {**LAYERS, **VALUES, **PRODUCTS, **SHAPES, **PARTS}
INPUT = Lock("it is tied to a model's input")
OUTPUT = Lock("it is the model's output")


@dataclass(frozen=True)
class Analysis:
    """The groups of a program, and what removing their units needs."""

    dependencies: Dependencies
    scope: Scope
    units: Units  # group name -> class of each unit


def analyse(module: fx.GraphModule, example: tuple[Tensor, ...]) -> Analysis:
    """Find what can be removed from a program in float form (``graph/float_form.py``).

    ``example`` is one batch for each input; the program is run on it once, for the shapes.
    """
    scope = Scope(module, concrete_values(module, example))
    _propagate(scope)
    scope.eager = True
    while True:
        before = scope.labels.ties
        _propagate(scope)
        make_rectangular(scope)
        if scope.labels.ties == before:
            break
    dependencies, units = find_groups(scope)
    return Analysis(dependencies, scope, units)


def concrete_values(module: fx.GraphModule, example: tuple[Tensor, ...]) -> dict[str, Any]:
    """Run ``module`` on two samples; return shapes, and numbers computed from shapes, by node."""
    recorder = _Recorder(module)
    with torch.no_grad():
        recorder.run(*batch_of_two(example))
    return recorder.values


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and keep the shape of its output."""
        result = super().run_node(n)
        self.values[n.name] = _shapes(result)
        return result


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape
    return [_shapes(part) for part in value] if isinstance(value, (list, tuple)) else value


def _propagate(scope: Scope) -> None:
    for node in scope.module.graph.nodes:
        if node.op == "placeholder" and scope.is_tensor(node):
            scope.arrays[node.name] = scope.locked(node, len(scope.shape(node)), INPUT)
        elif node.op == "call_function":
            _apply(scope, node)
    for node in output_nodes(scope.module):
        scope.labels.lock(scope.array(node), OUTPUT)
    for name, labels in scope.elements.items():
        axes = [axis for axis in range(labels.ndim) if (name, axis) in scope.axes]
        if labels.ndim == 1 and axes:
            scope.labels.tie(labels, scope.axes[name, 0])
        elif axes:
            scope.lock_stored(name, Lock("its weight is also used element by element", None, False))


def _apply(scope: Scope, node: fx.Node) -> None:
    value = scope.value(node)
    if not isinstance(value, (torch.Size, list)):
        return  # a number
    if is_op(node, *TRANSPOSES) and scope.weight(node) is not None and _feeds_products(node):
        return  # read through by the rule of the product
    rule = RULES.get(node.target)
    if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
        rule = elementwise
    if rule is None:
        scope.arrays[node.name] = _unfollowed(scope, node, "no rule follows it")
        return
    try:
        found = rule(scope, node)
    except UnfollowedError as error:
        scope.arrays[node.name] = _unfollowed(scope, node, str(error))
        return
    scope.arrays[node.name] = found


def _feeds_products(node: fx.Node) -> bool:
    aten = torch.ops.aten
    layers = (aten.linear.default, aten.addmm.default, aten.matmul.default, aten.mm.default)
    return all(is_op(user, *layers, *TRANSPOSES) for user in node.users)


def _unfollowed(scope: Scope, node: fx.Node, reason: str) -> Array | list[Array]:
    """Lock all that an operation reads; return the labels of its output, locked like it."""
    lock = Lock(f"{node.target} cannot be followed: {reason}", source_line(node), followed=False)
    sources = [n for n in node.all_input_nodes if scope.is_tensor(n)]
    inherited = []
    for source in sources:
        weight = scope.weight(source)
        if weight is not None:
            scope.lock_stored(weight[0], lock)
            continue
        parts = scope.arrays[source.name]
        for part in parts if isinstance(parts, list) else [parts]:
            if (scope.labels.classes(part) == 0).all():
                inherited += [found] if (found := scope.labels.lock_of(part)) else []
            else:
                scope.labels.lock(part, lock)
                inherited = [lock, *inherited]
    result = inherited[0] if inherited else lock
    value = scope.value(node)
    if isinstance(value, list):
        return [scope.locked(node, len(shape), result) for shape in value]
    return scope.locked(node, len(value), result)
