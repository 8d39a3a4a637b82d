"""Tensors in the middle of a student and the tensors of its teacher that they are to match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain

import torch
from torch import Tensor, fx

from edgekd.graph.cuts import block_ends
from edgekd.graph.extract import extract
from edgekd.graph.program import output_nodes
from edgekd.graph.tensors import add_tensor, is_float_tensor, layer_name


@dataclass(frozen=True, eq=False)
class Tap:
    """A node of the student and one of the teacher, by name.

    ``kept`` has an entry for each axis of the teacher's tensor: the places that a smaller student
    still has (int64), or None for all of them. Without entries the whole tensors are compared.
    """

    student: str
    teacher: str
    kept: tuple[Tensor | None, ...] = ()


def add_taps(
    student: fx.GraphModule, teacher: fx.GraphModule, taps: Sequence[Tap]
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return both programs with the tensors of ``taps`` behind their own outputs.

    The results return flat tuples and share all tensors with the programs that they come from:
    training one trains the other.
    """
    names = [tap.teacher for tap in taps]
    reference = with_outputs(teacher, names)
    ends = output_nodes(reference)
    own = len(ends) - len(names)
    ends[own:] = [
        _keep(reference, end, tap, str(i))
        for i, (end, tap) in enumerate(zip(ends[own:], taps, strict=True))
    ]
    reference.graph.output_node().args = (tuple(ends),)
    reference.recompile()
    return with_outputs(student, [tap.student for tap in taps]), reference


def with_outputs(module: fx.GraphModule, names: Sequence[str]) -> fx.GraphModule:
    """Return the program with the nodes ``names`` behind its outputs, sharing all tensors."""
    nodes = {node.name: node for node in module.graph.nodes}
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    return extract(module, inputs, [*output_nodes(module), *(nodes[name] for name in names)])


def _keep(module: fx.GraphModule, node: fx.Node, tap: Tap, label: str) -> fx.Node:
    """Return what a smaller student has of the tensor ``node``."""
    output = module.graph.output_node()
    for axis, places in enumerate(tap.kept):
        if places is not None:
            stored = add_tensor(module, f"_kept.tap_{label}_{axis}", places, before=output)
            with module.graph.inserting_before(output):
                node = module.graph.call_function(
                    torch.ops.aten.index_select.default, (node, axis, stored)
                )
    return node


def feature_names(module: fx.GraphModule, patterns: Sequence[str] = ()) -> list[str]:
    """Return the names of the nodes to be compared: the ends of blocks, or outputs of modules.

    Each of ``patterns`` fits the paths of modules, part by part between the dots (``layers.*``
    fits ``layers.0`` but not ``layers.0.norm``); the tensor is the last that such a module
    computes. Raises ValueError for a pattern that fits no module with a float tensor; its first
    argument is the pattern, its second the list of paths.
    """
    if not patterns:
        return [node.name for node in block_ends(module)]
    outputs = module_outputs(module)
    chosen: dict[fx.Node, None] = {}
    for pattern in patterns:
        fitting = [path for path in outputs if _fits(path, pattern)]
        if not fitting:
            raise ValueError(pattern, list(outputs))
        chosen |= dict.fromkeys(outputs[path] for path in fitting)
    order = {node: i for i, node in enumerate(module.graph.nodes)}
    return [node.name for node in sorted(chosen, key=order.__getitem__)]


def matching_taps(
    student: fx.GraphModule, teacher: fx.GraphModule, patterns: Sequence[str] = ()
) -> list[Tap]:
    """Return taps of the same nodes in two programs that name their nodes alike.

    For a student that has the teacher's shapes, as a sparse one has. A node that the student does
    not have is left out. Raises ValueError as ``feature_names`` does.
    """
    there = {node.name for node in student.graph.nodes}
    return [Tap(name, name) for name in feature_names(teacher, patterns) if name in there]


def module_outputs(module: fx.GraphModule) -> dict[str, fx.Node]:
    """Return the last float tensor of every module, by path."""
    found: dict[str, fx.Node] = {}
    for node in module.graph.nodes:
        if node.op == "call_function" and is_float_tensor(node):
            found |= dict.fromkeys(_paths(node), node)
    return found


def _paths(node: fx.Node) -> Iterator[str]:
    """Yield the paths of the modules in which ``node`` is, as export recorded them."""
    stack = node.meta.get("nn_module_stack") or {}
    recorded = [entry[0] for entry in stack.values() if entry[0]]
    return chain(recorded, () if recorded else (layer_name(node),))


def _fits(path: str, pattern: str) -> bool:
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
