"""Heads of exits that were put onto a program of integers become integers too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import fx

from edgekd.data.loader import batches
from edgekd.exits.attach import attach
from edgekd.graph.canonical import canonicalize
from edgekd.graph.extract import extract
from edgekd.graph.program import clone, output_nodes, refresh
from edgekd.graph.tensors import clean, is_op
from edgekd.progress import Progress
from edgekd.quantize.calibrate import calibrate
from edgekd.quantize.convert import convert, quantized
from edgekd.quantize.fake import Quantizer
from edgekd.quantize.prepare import prepare
from edgekd.recipe import Calibration
from edgekd.stages.quantize import rules_for
from edgekd.state import CompressionState
from edgekd.training import Inputs

BATCH = 64


def quantize_heads(
    state: CompressionState,
    module: fx.GraphModule,
    places: Sequence[str],
    own: int,
    progress: Progress,
) -> fx.GraphModule:
    """Return the program with trained heads that run on integers where the target's rules say.

    ``module`` has ``own`` outputs and behind them those of the heads, which read the nodes
    ``places``. Ranges come from the calibration samples. Where a head reads a tensor that the
    backbone has quantized, it reads the same integers: no second pair of quantize and dequantize
    steps comes between.
    """
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    nodes = {node.name: node for node in module.graph.nodes}
    ends = output_nodes(module)
    heads = []
    for index, (place, logits) in enumerate(zip(places, ends[own:], strict=True), start=1):
        head = clone(extract(module, [nodes[place]], [logits]))
        trunk = extract(module, inputs, [nodes[place]])
        quantized_head = _quantize(state, head, trunk, nodes[place], progress)
        heads.append((f"exit_{index}", place, quantized_head))
    with_places = extract(module, inputs, [*ends[:own], *(nodes[place] for place in places)])
    return attach(with_places, heads, own).module


def _quantize(
    state: CompressionState,
    head: fx.GraphModule,
    trunk: fx.GraphModule,
    place: fx.Node,
    progress: Progress,
) -> fx.GraphModule:
    rules, scheme = rules_for(state.profile)
    with torch.no_grad():
        (example,) = trunk(*state.example)
    canonicalize(head)
    head = refresh(head, (example,))
    placement = rules(head, {})
    if not placement.weights:
        return head
    names = [tensor.node for tensor in placement.tensors]
    title = f"early_exit: ranges behind {place.name}"
    with progress.task(title, -(-len(state.data.calibration) // BATCH) * 2) as advance:

        def samples() -> Iterator[Inputs]:
            for inputs, _ in batches(state.data, state.data.calibration, state.spec, BATCH):
                with torch.no_grad():
                    yield tuple(trunk(*inputs))
                advance(1)

        ranges = calibrate(head, names, samples, scheme, Calibration().method)
    (source,) = (node for node in head.graph.nodes if node.op == "placeholder")
    prepare(head, placement, scheme, ranges)
    shared = _adopt(head, f"{source.name}_quantizer", place)
    convert(head, scheme)
    if shared:
        _read_directly(head, source)
    return refresh(head, (example,))


def _adopt(head: fx.GraphModule, path: str, place: fx.Node) -> bool:
    """Give a head's first quantizer the grid that its input is on already; False without any.

    The integer bias of the head's first layer is then in steps of that grid.
    """
    on_grid = is_op(place, quantized.dequantize_per_tensor.default)
    quantizer = dict(head.named_modules()).get(path)
    if not on_grid or not isinstance(quantizer, Quantizer):
        return False
    _, scale, zero_point, qmin, qmax, *_ = place.args
    if (qmin, qmax) != (quantizer.qmin, quantizer.qmax):
        return False
    with torch.no_grad():
        quantizer.log_scale.fill_(math.log(scale))  # type: ignore[arg-type]
    quantizer.zero_point = int(zero_point)  # type: ignore[arg-type]
    return True


def _read_directly(head: fx.GraphModule, source: fx.Node) -> None:
    """Drop the quantize and dequantize steps behind ``source``, whose values are on the grid."""
    for codes in list(source.users):
        if is_op(codes, quantized.quantize_per_tensor.default):
            for values in list(codes.users):
                values.replace_all_uses_with(source)
    clean(head)
