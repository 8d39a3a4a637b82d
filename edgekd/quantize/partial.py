"""Quantizing a part of a program that is already calibrated and trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import fx

from edgekd.graph.program import clone
from edgekd.graph.tensors import add_tensor, constant, is_op, layer_name
from edgekd.quantize.operations import WEIGHTED
from edgekd.quantize.placement import Placement

Place = Callable[[fx.GraphModule, Mapping[str, str]], Placement]


@dataclass(frozen=True)
class QuantizedProgram:
    """A program before and after quantization; gives it with fewer layers quantized.

    ``original`` is the canonical program in float as ``prepare`` got it, ``trained`` the same with
    quantizers in it and weights and steps as training left them. ``place`` are the runtime's rules,
    ``insert`` puts quantizers with the calibrated ranges where a placement says. ``weight_only``
    names the layers of which only the weight is quantized: no placement has them.
    """

    original: fx.GraphModule
    trained: fx.GraphModule
    place: Place
    insert: Callable[[fx.GraphModule, Placement], object]
    weight_only: frozenset[str] = frozenset()

    def layers(self) -> list[str]:
        """Return the names of the layers with quantized weights, in graph order."""
        placed = set(self.place(self.original, {}).weights)
        found = (
            layer_name(node)
            for node in self.original.graph.nodes
            if node.name in placed
            or (layer_name(node) in self.weight_only and is_op(node, *WEIGHTED))
        )
        return list(dict.fromkeys(found))  # layers that share a weight have one name

    def without(self, in_float: Mapping[str, str]) -> tuple[fx.GraphModule, Placement]:
        """Return the program with trained weights and steps, but some layers in float.

        ``in_float``: layer name -> the reason to report. Nothing is trained again.
        """
        module = clone(self.original)
        _adopt_biases(module, self.trained)
        placement = self.place(module, in_float)
        self.insert(module, placement)
        # Quantizers that are not there any more, and tensors that nothing reads, have no place.
        module.load_state_dict(self.trained.state_dict(), strict=False)
        return module, placement

    def alone(self, layer: str | None) -> fx.GraphModule:
        """Return the program with one layer quantized and all other operations in float.

        What is quantized around it is what the runtime's rules need for this layer on integers.
        None: everything in float, with the trained weights.
        """
        others = {layer_name(node) for node in self.original.graph.nodes} - {layer}
        module, _ = self.without(dict.fromkeys(others, "another layer is measured"))
        return module


def _adopt_biases(module: fx.GraphModule, trained: fx.GraphModule) -> None:
    """Give the layers of ``module`` the biases that bias correction added to ``trained``."""
    layers = {node.name: node for node in module.graph.nodes}
    for source in trained.graph.nodes:
        if not is_op(source, *WEIGHTED) or len(source.args) < 3:
            continue
        bias, layer = constant(trained, source.args[2]), layers[source.name]
        own = layer.args[2] if len(layer.args) > 2 else None
        if bias is None or getattr(own, "target", None) == source.args[2].target:
            continue
        read = add_tensor(module, source.args[2].target, bias, before=layer, trainable=True)
        layer.args = (*layer.args[:2], read, *layer.args[3:])
    module.recompile()
