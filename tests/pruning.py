"""What tests of pruning share: analysed networks, and the property that surgery has to keep."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import torch
from networks import build, trace
from prunable_networks import PRUNABLE, inputs
from torch import Tensor, fx, nn

from edgekd.graph.float_form import float_form
from edgekd.graph.program import output_tensors
from edgekd.prune.analysis import Analysis, analyse
from edgekd.prune.groups import Dependencies
from edgekd.prune.surgery import Smaller

Removal = dict[str, list[int]]


@cache
def prunable(name: str) -> tuple[nn.Module, fx.GraphModule, Analysis]:
    net, example = build(PRUNABLE[name][0]), inputs(name, 2)
    graph, _ = trace(net, *example)
    form = float_form(graph, example)
    return net, form, analyse(form, example)


def some_units(dependencies: Dependencies, seed: int, *, least: int = 1) -> Removal:
    """Choose units of every group, at least one and never all."""
    choose = random.Random(seed)
    return {
        group.name: sorted(choose.sample(range(group.size), choose.randint(least, group.size - 1)))
        for group in dependencies.groups
    }


class Values(fx.Interpreter):
    """Every value that a program computes."""

    def __init__(self, module: fx.GraphModule, *given: Tensor) -> None:
        super().__init__(module)
        self.found: dict[str, Any] = {}
        with torch.no_grad():
            self.outputs = output_tensors(self.run(*given))

    def run_node(self, n: fx.Node) -> Any:
        self.found[n.name] = result = super().run_node(n)
        return result


def check(smaller: Smaller, masked: fx.GraphModule, *given: Tensor) -> None:
    """Check outputs for some batch sizes, and what stayed of every tensor on the way."""
    for batch in (1, 2, 5):
        part = tuple(x[:batch] for x in given)
        small, full = Values(smaller.module, *part), Values(masked, *part)
        for a, b in zip(small.outputs, full.outputs, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    for name, kept in smaller.kept.items():
        expected = full.found[name]
        for axis, places in enumerate(kept):
            if places is not None:
                expected = expected.index_select(axis, torch.from_numpy(places))
        torch.testing.assert_close(small.found[name], expected, atol=1e-4, rtol=1e-4)
