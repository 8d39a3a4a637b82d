"""Reading what the batch norms of a program see."""

from __future__ import annotations

from torch import fx

from edgekd.algorithms.statistics_loss import Statistics, channel_statistics, deviation
from edgekd.graph.batchnorm import batch_norms
from edgekd.graph.canonical import make_functional
from edgekd.graph.program import clone
from edgekd.graph.tensors import constant


def tap_batch_norms(module: fx.GraphModule) -> tuple[fx.GraphModule, list[Statistics]]:
    """Return a program that gives the statistics of every batch norm's input, and those stored.

    The program shares nothing with ``module``, takes the same inputs and returns a tuple of (mean,
    deviation), each ``(C,)``. What lies behind the last batch norm is left out. Its parameters take
    no gradient; gradients reach its inputs. ``module`` needs at least one batch norm.
    """
    tapped = clone(module)
    tapped.requires_grad_(False)
    make_functional(tapped)  # autograd needs every tensor as it was
    seen, stored = [], []
    for norm in batch_norms(tapped):
        mean, variance = constant(tapped, norm.args[3]), constant(tapped, norm.args[4])
        assert mean is not None and variance is not None
        stored.append((mean.detach(), deviation(variance.detach())))
        with tapped.graph.inserting_before(norm):
            seen.append(tapped.graph.call_function(channel_statistics, (norm.args[0],)))
    body = fx.GraphModule(tapped, _ending_in(tapped.graph, seen))
    return body, stored


def _ending_in(graph: fx.Graph, ends: list[fx.Node]) -> fx.Graph:
    """Return a copy of ``graph`` that returns ``ends``, and computes nothing else."""
    short, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        if node.op != "output":
            copies[node] = short.node_copy(node, copies.__getitem__)
    short.output(tuple(copies[end] for end in ends))
    short.eliminate_dead_code()
    return short
