"""Putting quantizers into a canonical program, where a placement says."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import fx

from edgekd.algorithms.ranges import affine_parameters, symmetric_parameters
from edgekd.graph.canonical import is_selection
from edgekd.graph.tensors import clean, constant, is_op, layer_name
from edgekd.quantize.fake import Quantizer, WeightFormat, WeightQuantizer
from edgekd.quantize.operations import (
    CONVOLUTIONS,
    clamp_ceiling,
    is_relu,
    is_softmax,
    is_weighted,
)
from edgekd.quantize.placement import Placement, QuantizedTensor, Scheme

Ranges = dict[str, tuple[float, float]]
Formats = Mapping[str, WeightFormat]


def prepare(
    module: fx.GraphModule,
    placement: Placement,
    scheme: Scheme,
    ranges: Ranges,
    formats: Formats = MappingProxyType({}),
) -> list[Quantizer]:
    """Insert fake quantizers in place and return them, weights included.

    ``ranges`` holds (lo, hi) by node name for every tensor of the placement. ``formats`` gives
    the weight formats that are not int8 with a step per channel, by layer name. A layer with a
    format in groups has its weight quantized although the placement leaves it in float.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    plain = WeightFormat(scheme.weight_bits)
    modules: dict[str, str] = {}
    for tensor in placement.tensors:
        path = modules.get(tensor.shares) if tensor.shares else None
        if path is None:
            path = f"{tensor.node}_quantizer"
            module.add_submodule(path, _quantizer(nodes[tensor.node], scheme, ranges[tensor.node]))
        modules[tensor.node] = path
        _insert(module, nodes[tensor.node], path, tensor, scheme)
    for node in nodes.values():
        if node.name in placement.weights:
            _quantize_weight(module, node, formats.get(layer_name(node), plain))
        elif is_weighted(module, node) and formats.get(layer_name(node), plain).group_size:
            _quantize_weight(module, node, formats[layer_name(node)])
    clean(module)
    return [m for m in module.modules() if isinstance(m, Quantizer)]


def _quantizer(node: fx.Node, scheme: Scheme, found: tuple[float, float]) -> Quantizer:
    # A histogram of mostly small probabilities would cut off the few that matter.
    lo, hi = (0.0, 1.0) if is_softmax(node) else found
    if scheme.symmetric:
        scale, zero_point = symmetric_parameters(lo, hi, scheme.qmax)
    else:
        lo = 0.0 if is_relu(node) else lo
        scale, zero_point = affine_parameters(lo, hi, scheme.qmin, scheme.qmax)
    # A clamp disappears into the quantizer only while the grid does not reach past its ceiling.
    ceiling = clamp_ceiling(node)
    limit = None if ceiling is None or scheme.symmetric else ceiling / scheme.qmax
    return Quantizer(torch.tensor([scale]), zero_point, scheme.qmin, scheme.qmax, max_scale=limit)


def _insert(
    module: fx.GraphModule, node: fx.Node, path: str, tensor: QuantizedTensor, scheme: Scheme
) -> None:
    readers = tensor.readers
    with module.graph.inserting_after(node):
        quantized = module.graph.call_module(path, (node,))
    # With an absorbed ReLU the input is another one than the tensor that is quantized.
    quantized.meta["quantizes"] = node.name
    node.replace_all_uses_with(
        quantized,
        delete_user_cb=lambda user: (
            user is not quantized and (readers is None or user.name in readers)
        ),
    )
    quantizer = module.get_submodule(path)
    assert isinstance(quantizer, Quantizer)
    absorbed = scheme.absorbs_relu and is_relu(node) and quantizer.zero_point == quantizer.qmin
    if absorbed and len(node.users) == 1:
        # Codes start at zero, so the quantizer clips what the ReLU would have.
        quantized.args = (node.args[0],)


def _quantize_weight(module: fx.GraphModule, layer: fx.Node, format: WeightFormat) -> None:
    weight_node = layer.args[1]
    weight = constant(module, weight_node)
    assert weight is not None
    quantizer = WeightQuantizer(weight, format)
    if is_op(layer, *CONVOLUTIONS) and is_selection(layer):
        quantizer.learnable = False
    path = f"{layer.name}_weight_quantizer"
    module.add_submodule(path, quantizer)
    with module.graph.inserting_before(layer):
        quantized = module.graph.call_module(path, (weight_node,))
    layer.args = (layer.args[0], quantized, *layer.args[2:])
