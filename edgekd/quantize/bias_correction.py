"""Correcting the shift that quantization gives to the mean of a layer's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from edgekd.graph.tensors import add_tensor, constant, free_name, is_op, is_shared
from edgekd.quantize.fake import WeightQuantizer
from edgekd.quantize.operations import CONVOLUTIONS, WEIGHTED

Inputs = tuple[Tensor, ...]


@torch.no_grad()
def correct_biases(
    original: fx.GraphModule,
    quantized: fx.GraphModule,
    batches: Callable[[], Iterable[Inputs]],
) -> int:
    """Add E[y_float - y_quantized] of every channel to the bias of every quantized layer.

    Nagel et al., ICCV 2019 (arXiv 1906.04721), section 4.2, with the expectation taken from
    samples (appendix D of the paper). One pass, in order: a layer is corrected while its batch
    runs, so the layers behind it see the correction and do not repeat it. Later batches refine the
    result: each counts by its share of all samples so far.

    ``original`` and ``quantized`` are the same program before and after ``prepare``. Returns the
    number of corrected layers.
    """
    biases = _own_biases(quantized)
    seen = 0
    for inputs in batches():
        seen += len(inputs[0])
        means = _Means(original, set(biases))
        means.run(*inputs)
        _Correction(quantized, biases, means.found, len(inputs[0]) / seen).run(*inputs)
    return len(biases)


def _own_biases(module: fx.GraphModule) -> dict[str, Tensor]:
    """Return the bias of every quantized layer by node name, giving it one of its own if need be.

    A convolution that only selects channels is exact and has none.
    """
    layers = [node for node in module.graph.nodes if _is_quantized(module, node)]
    found = {layer.name: _own_bias(module, layer) for layer in layers}
    module.recompile()
    return found


def _is_quantized(module: fx.GraphModule, node: fx.Node) -> bool:
    if not is_op(node, *WEIGHTED) or not isinstance(weight := node.args[1], fx.Node):
        return False
    if weight.op != "call_module" or (len(node.args) > 2 and _computed(node.args[2])):
        return False
    quantizer = module.get_submodule(str(weight.target))
    return isinstance(quantizer, WeightQuantizer) and quantizer.learnable


def _computed(bias: object) -> bool:
    return isinstance(bias, fx.Node) and bias.op != "get_attr"


def _own_bias(module: fx.GraphModule, layer: fx.Node) -> Tensor:
    """Return the bias that ``layer`` alone reads; a copy, or zeros, where it has none."""
    node = layer.args[2] if len(layer.args) > 2 else None
    bias = constant(module, node)
    if isinstance(node, fx.Node) and bias is not None and not is_shared(module, node):
        return bias
    weight_node = layer.args[1].args[0]  # type: ignore[union-attr]
    weight = constant(module, weight_node)
    assert isinstance(weight_node, fx.Node) and weight is not None
    name = free_name(module, f"{str(weight_node.target).removesuffix('.weight')}.bias")
    value = weight.new_zeros(len(weight)) if bias is None else bias
    read = add_tensor(module, name, value, before=layer, trainable=True)
    layer.args = (*layer.args[:2], read, *layer.args[3:])
    own = constant(module, read)
    assert own is not None
    return own


def _channel_means(layer: fx.Node, value: Tensor) -> Tensor:
    axis = 1 if is_op(layer, *CONVOLUTIONS) else value.ndim - 1
    return value.mean([i for i in range(value.ndim) if i != axis])


class _Means(fx.Interpreter):
    """Notes the mean of every channel of some nodes."""

    def __init__(self, module: fx.GraphModule, names: Iterable[str]):
        super().__init__(module)
        self.found: dict[str, Tensor] = dict.fromkeys(names, torch.empty(0))

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.found:
            self.found[n.name] = _channel_means(n, value)
        return value


class _Correction(fx.Interpreter):
    """Moves each bias by ``share`` of the shift, and the value on its way by as much."""

    def __init__(
        self,
        module: fx.GraphModule,
        biases: dict[str, Tensor],
        targets: dict[str, Tensor],
        share: float,
    ):
        super().__init__(module)
        self.biases, self.targets, self.share = biases, targets, share

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name not in self.biases:
            return value
        shift = self.share * (self.targets[n.name] - _channel_means(n, value))
        self.biases[n.name].add_(shift)
        shape = [-1, *[1] * (value.ndim - 2)] if is_op(n, *CONVOLUTIONS) else [-1]
        return value + shift.reshape(shape)
