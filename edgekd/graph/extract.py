"""Cutting a part out of a program, to run and train it alone."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx


def extract(
    module: fx.GraphModule, starts: Iterable[fx.Node], ends: Iterable[fx.Node]
) -> fx.GraphModule:
    """Return a module that computes the values of ``ends`` from those of ``starts``.

    It returns a tuple, and shares parameters, buffers and submodules with ``module``. The values
    of ``ends`` must not depend on anything else that is computed from the program's inputs.
    """
    graph, ends = fx.Graph(), tuple(ends)
    copies = {start: graph.placeholder(start.name) for start in starts}
    wanted = _ancestors(ends, set(copies))
    for node in module.graph.nodes:
        if node in wanted:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[end] for end in ends))
    return fx.GraphModule(module, graph)


def _ancestors(ends: Iterable[fx.Node], starts: set[fx.Node]) -> set[fx.Node]:
    """Return what the values of ``ends`` are computed from, back to ``starts`` and without them."""
    found: set[fx.Node] = set()
    frontier = [node for node in ends if node not in starts]
    while frontier:
        node = frontier.pop()
        if node not in found:
            found.add(node)
            frontier += [n for n in node.all_input_nodes if n not in starts]
    return found
