"""Bits per layer: from the recipe's patterns to the format of every layer of a program."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import fx

from edgekd.errors import StageError
from edgekd.graph.canonical import is_selection
from edgekd.graph.tensors import constant, is_op, layer_name
from edgekd.quantize.fake import WeightFormat
from edgekd.quantize.operations import CONVOLUTIONS, is_weighted
from edgekd.recipe import Bits, LayerBits, QuantizeStage

OPSET_OF_INT4 = 21  # the first in which DequantizeLinear reads INT4, and in blocks
LOW = ("w4a8", "w4a16")
REASONS = {
    "float": "the recipe keeps it in float",
    "w4a16": "w4a16 quantizes weights only: its input stays in float",
}


def layer_bits(module: fx.GraphModule, options: QuantizeStage, opset: int) -> dict[str, Bits]:
    """Return the bits of every layer of a canonical program with a stored weight, by its name.

    ``opset`` is the target's. Raises StageError for a pattern that fits no layer, and for a layer
    that cannot have the bits asked for.
    """
    layers: dict[str, fx.Node] = {}
    for node in module.graph.nodes:
        if is_weighted(module, node):
            layers.setdefault(layer_name(node), node)
    # A convolution that only selects channels is exact at 8 bits and has no weights to save.
    selections = {n for n, x in layers.items() if is_op(x, *CONVOLUTIONS) and is_selection(x)}
    names = [name for name in layers if name not in selections]
    found = resolve(names, options.bits, options.layers, keep_ends=options.keep_ends)
    if found and set(found.values()) == {"float"}:
        raise StageError(
            "quantize: the recipe leaves every layer in float: give some of them other bits"
        )
    for name, bits in found.items():
        if bits == "w4a16":
            _check_groups(module, layers[name], options.group_size, opset)
    return found


def resolve(
    names: Sequence[str], default: Bits, entries: Sequence[LayerBits], *, keep_ends: bool
) -> dict[str, Bits]:
    """Return the bits of each of ``names``, given in the order of the program.

    The first and the last layer keep 8 bits unless an entry names them: they are a small part of
    the work and lose most. (Esser et al., arXiv 1902.08153, section 3; Li et al., arXiv 2102.05426,
    section 4.) Raises StageError for an entry that fits no name.
    """
    found: dict[str, Bits] = dict.fromkeys(names, default)
    if keep_ends and default in LOW and names:
        found[names[0]] = found[names[-1]] = "w8a8"
    for index, entry in enumerate(entries):
        fitting = [name for name in names if fnmatchcase(name, entry.match)]
        if not fitting:
            raise StageError(
                f"quantize: layers[{index}]: no layer is called {entry.match!r}; "
                f"{_near(entry.match, names)}"
            )
        found |= dict.fromkeys(fitting, entry.bits)
    return found


def formats(bits: Mapping[str, Bits], group_size: int) -> dict[str, WeightFormat]:
    """Return the weight formats that are not int8 with a step per channel, by layer name."""
    known = {"w4a8": WeightFormat(4), "w4a16": WeightFormat(4, group_size)}
    return {name: known[value] for name, value in bits.items() if value in known}


def in_float(bits: Mapping[str, Bits]) -> dict[str, str]:
    """Return the reason for every layer whose activations stay in float, by layer name."""
    return {name: REASONS[value] for name, value in bits.items() if value in REASONS}


def without_float(
    formats: Mapping[str, WeightFormat], reasons: Mapping[str, str]
) -> dict[str, WeightFormat]:
    """Leave out the formats of layers that a placement has in float, weight and all."""
    weight_only = (None, REASONS["w4a16"])
    return {name: format for name, format in formats.items() if reasons.get(name) in weight_only}


def _near(pattern: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5)
    if close:
        return f"near names: {', '.join(close)}"
    more = ", .." if len(names) > 3 else ""
    return f"the layers are called {', '.join(names[:3])}{more} (edgekd inspect lists them)"


def _check_groups(module: fx.GraphModule, layer: fx.Node, size: int, opset: int) -> None:
    """Refuse w4a16 where no runtime could use it."""
    name, weight = layer_name(layer), constant(module, layer.args[1])
    assert weight is not None
    if is_op(layer, *CONVOLUTIONS):
        raise StageError(
            f"quantize: {name} is a convolution, and no runtime has a convolution with 4-bit "
            "weights and float activations: give it w8a8, w4a8 or float in 'layers'"
        )
    if opset < OPSET_OF_INT4:
        raise StageError(
            f"quantize: {name}: w4a16 stores INT4 in blocks, which ONNX has since opset "
            f"{OPSET_OF_INT4}, and the target reads opset {opset}: use w4a8, or a device profile "
            "with a newer runtime (TensorRT 10, ONNX Runtime 1.20)"
        )
    if weight.shape[1] % size:
        raise StageError(
            f"quantize: {name} has {weight.shape[1]} inputs, which groups of {size} do not fill: "
            "choose another group_size, or other bits for it in 'layers'"
        )
