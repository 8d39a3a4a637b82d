"""From fake quantization to the integers that will run: explicit quantize and dequantize steps."""

from __future__ import annotations

from typing import Any

import torch

# Registers the quantized_decomposed operators, which torch's ONNX exporter knows.
import torch.ao.quantization.fx._decomposed
from torch import Tensor, fx

from edgekd.graph.tensors import add_tensor, clean, constant, free_name, is_op
from edgekd.quantize.embeddings import quantize_embeddings
from edgekd.quantize.fake import Quantizer, WeightQuantizer
from edgekd.quantize.operations import CONVOLUTIONS, WEIGHTED, is_weighted
from edgekd.quantize.placement import Scheme

quantized = torch.ops.quantized_decomposed


def convert(module: fx.GraphModule, scheme: Scheme) -> None:
    """Replace every fake quantizer in place; the result needs no edgekd code to run or export."""
    if scheme.integer_embeddings:
        quantize_embeddings(module)
    if scheme.integer_bias:
        for node in list(module.graph.nodes):
            if is_op(node, *WEIGHTED):
                _integer_bias(module, node)
    for node in list(module.graph.nodes):
        if node.op != "call_module":
            continue
        quantizer = module.get_submodule(str(node.target))
        if isinstance(quantizer, WeightQuantizer):
            _convert_weight(module, node, quantizer)
        elif isinstance(quantizer, Quantizer):
            _convert_activation(module, node, quantizer, scheme)
    clean(module)


def _quantizer_of(module: fx.GraphModule, node: Any) -> Quantizer | None:
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    found = module.get_submodule(str(node.target))
    return found if isinstance(found, Quantizer) else None


def _integer_bias(module: fx.GraphModule, layer: fx.Node) -> None:
    """Store the bias as int32 with step (input step * weight step), as integer kernels add it."""
    source, weight = _quantizer_of(module, layer.args[0]), _quantizer_of(module, layer.args[1])
    bias_node = layer.args[2] if len(layer.args) > 2 else None
    bias = constant(module, bias_node)
    if source is None or weight is None or bias is None or not isinstance(bias_node, fx.Node):
        return
    _make_room(weight, source.scale(), bias)
    scale = (source.scale() * weight.scale().reshape(-1)).detach()
    codes = torch.round(bias.double() / scale.double()).to(torch.int32)
    read = _dequantize_channels(module, layer, str(bias_node.target), (codes, scale))
    layer.args = (*layer.args[:2], read, *layer.args[3:])


@torch.no_grad()
def _make_room(weight: Quantizer, source_scale: Tensor, bias: Tensor) -> None:
    """Widen weight steps that are too fine for the bias to fit into int32.

    That happens in channels whose weights are almost zero, as training with weight decay leaves
    them; 2^30 bias steps cover the bias, so the coarser weights change nothing that shows.
    """
    least = bias.abs().double() / source_scale.double() / 2**30
    steps = weight.scale().double()
    wide = torch.maximum(steps, least.reshape(steps.shape))
    weight.log_scale.copy_(torch.where(wide > steps, wide.log(), weight.log_scale))


def _convert_weight(module: fx.GraphModule, node: fx.Node, quantizer: WeightQuantizer) -> None:
    weight_node = node.args[0]
    weight = constant(module, weight_node)
    assert weight is not None and isinstance(weight_node, fx.Node)
    name, codes = str(weight_node.target), quantizer.codes(weight).detach()
    if quantizer.format.group_size is None:
        stored = codes, quantizer.scale().detach().reshape(-1)
        values = _dequantize_channels(module, node, name, stored)
    else:
        values = _dequantize_groups(module, node, name, codes, quantizer)
    node.replace_all_uses_with(values)


def _dequantize_groups(
    module: fx.GraphModule,
    before: fx.Node,
    name: str,
    codes: Tensor,
    quantizer: WeightQuantizer,
) -> fx.Node:
    """Store ``codes`` ``(O, I)`` with the steps ``(O, I / group size)`` and return their values."""
    stored = codes, quantizer.log_scale.detach().exp()
    reads = _store(module, before, name, stored)
    size, limit = quantizer.format.group_size, quantizer.qmax
    with module.graph.inserting_before(before):
        return module.graph.call_function(
            quantized.dequantize_per_channel_group.default,
            (*reads, -limit, limit, codes.dtype, size, torch.float32),
        )


def _store(
    module: fx.GraphModule, before: fx.Node, name: str, stored: tuple[Tensor, Tensor]
) -> tuple[fx.Node, ...]:
    """Store (codes, scale) and zero points of 0 under names from ``name``; return their nodes."""
    codes, scale = stored
    zero = torch.zeros(scale.shape, dtype=codes.dtype)
    tensors = {"codes": codes, "scale": scale, "zero_point": zero}
    return tuple(
        # Layers can share a weight or bias, but each has its own steps, hence the free name.
        add_tensor(module, free_name(module, f"{name}_{what}"), tensor, before=before)
        for what, tensor in tensors.items()
    )


def _dequantize_channels(
    module: fx.GraphModule, before: fx.Node, name: str, stored: tuple[Tensor, Tensor]
) -> fx.Node:
    """Store (codes, scale) under names derived from ``name`` and return their real values."""
    reads, codes = _store(module, before, name, stored), stored[0]
    limit = torch.iinfo(codes.dtype).max
    with module.graph.inserting_before(before):
        return module.graph.call_function(
            quantized.dequantize_per_channel.default,
            (*reads, 0, -limit, limit, codes.dtype),
        )


def _convert_activation(
    module: fx.GraphModule, node: fx.Node, quantizer: Quantizer, scheme: Scheme
) -> None:
    dtype = torch.int8 if quantizer.qmin < 0 else torch.uint8
    arguments = (
        float(quantizer.scale().item()),
        quantizer.zero_point,
        quantizer.qmin,
        quantizer.qmax,
        dtype,
    )
    with module.graph.inserting_before(node):
        codes = module.graph.call_function(
            quantized.quantize_per_tensor.default, (node.args[0], *arguments)
        )
        values = module.graph.call_function(
            quantized.dequantize_per_tensor.default, (codes, *arguments)
        )
    node.replace_all_uses_with(values)
    if scheme.quantizes_float_weights:
        for reader in list(values.users):
            if is_weighted(module, reader) and reader.args[0] is values:
                _read_by_channel(module, reader, codes, quantizer)


def _read_by_channel(
    module: fx.GraphModule, layer: fx.Node, codes: fx.Node, quantizer: Quantizer
) -> None:
    """Let a float layer read ``codes`` with a step per channel, all of them equal.

    The values are the same, but the runtime quantizes float weights only behind a single step
    (``weight_bias_quantization.cc`` in ONNX Runtime's qdq_transformer).
    """
    weight, value = constant(module, layer.args[1]), layer.meta["val"]
    assert weight is not None
    convolution = is_op(layer, *CONVOLUTIONS)
    groups = int(layer.args[6]) if convolution and len(layer.args) > 6 else 1  # type: ignore
    axis, channels = 1 if convolution else value.ndim - 1, weight.shape[1] * groups
    dtype = torch.int8 if quantizer.qmin < 0 else torch.uint8
    tensors = {
        "scale": quantizer.scale().detach().expand(channels),
        "zero_point": torch.full((channels,), quantizer.zero_point, dtype=dtype),
    }
    reads = [
        add_tensor(module, free_name(module, f"{layer.name}_input_{what}"), tensor, before=layer)
        for what, tensor in tensors.items()
    ]
    with module.graph.inserting_before(layer):
        values = module.graph.call_function(
            quantized.dequantize_per_channel.default,
            (codes, *reads, axis, quantizer.qmin, quantizer.qmax, dtype),
        )
    layer.args = (values, *layer.args[1:])
