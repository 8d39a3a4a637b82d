"""Putting heads onto a program, and taking them off again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from edgekd.graph.extract import extract
from edgekd.graph.program import output_nodes, to_module
from edgekd.graph.tensors import add_tensor, constant, shape_of
from edgekd.model.trace import export_batched, quiet

PREFIX = "exits."  # of the names of all tensors that heads store


@dataclass(frozen=True)
class Attached:
    """A program with heads: their logits come behind its own outputs, in order.

    ``features`` are the nodes of what the heads pool.
    """

    module: fx.GraphModule
    features: tuple[str, ...]


def traced(head: nn.Module, place: fx.Node) -> fx.GraphModule:
    """Return a head as a program of the tensor at ``place``, axis 0 free."""
    shape = shape_of(place)
    assert shape is not None
    example = torch.zeros(2, *shape[1:])
    with quiet():
        return to_module(export_batched(head.eval(), (example,)))


def attach(
    module: fx.GraphModule,
    heads: Sequence[tuple[str, str, fx.GraphModule]],
    own: int | None = None,
) -> Attached:
    """Return a program with the outputs of heads behind its own; it shares tensors with ``module``.

    Each head is (name, name of the node that it reads, program that returns its logits first and
    its features second, if it has any). Tensors of a head called ``exit_1`` are stored under
    ``exits.exit_1``. Outputs of ``module`` behind the first ``own`` are left out. ``module`` gets
    nodes that nothing reads.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    kept = output_nodes(module)[:own]
    logits, features = [], []
    for name, place, head in heads:
        answers = _insert(module, head, nodes[place], f"{PREFIX}{name}")
        logits.append(answers[0])
        features += [node.name for node in answers[1:2]]
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    return Attached(extract(module, inputs, [*kept, *logits]), tuple(features))


def _insert(
    module: fx.GraphModule, head: fx.GraphModule, place: fx.Node, prefix: str
) -> list[fx.Node]:
    """Copy a head's nodes in front of the program's output; return those of its outputs."""
    before = module.graph.output_node()
    copies: dict[fx.Node, fx.Node] = {}
    for node in head.graph.nodes:
        if node.op == "placeholder":
            copies[node] = place
        elif node.op == "output":
            return [copies[found] for found in output_nodes(head)]
        elif (value := constant(head, node)) is not None:
            trainable = isinstance(value, nn.Parameter)
            name = f"{prefix}.{node.target}"
            copies[node] = add_tensor(module, name, value, before=before, trainable=trainable)
            copies[node].meta = dict(node.meta)
        else:
            with module.graph.inserting_before(before):
                copies[node] = module.graph.node_copy(node, copies.__getitem__)
    raise AssertionError("a program ends with its outputs")


def is_head_tensor(name: str) -> bool:
    """Tell whether a stored tensor belongs to a head, by its dotted name."""
    return name.startswith(PREFIX)


def without_exits(module: fx.GraphModule, own: int) -> fx.GraphModule:
    """Return the program with its first ``own`` outputs only; it shares tensors with ``module``."""
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    return extract(module, inputs, output_nodes(module)[:own])


def backbone_tensors(module: fx.GraphModule) -> dict[str, Tensor]:
    """Return every stored tensor that the program reads and that is not a head's, by name."""
    found = {}
    for node in module.graph.nodes:
        value = constant(module, node)
        if value is not None and not is_head_tensor(str(node.target)):
            found[str(node.target)] = value
    return found
