"""The tensors between the blocks of a quantized program and of its float original."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from edgekd.graph.taps import Tap, feature_names
from edgekd.graph.tensors import is_float_tensor
from edgekd.quantize.blocks import find_blocks, float_name


def find_taps(
    quantized: fx.GraphModule, original: fx.GraphModule, patterns: Sequence[str] = ()
) -> list[Tap]:
    """Return where both programs have the same tensor: where blocks end, or behind some modules.

    ``original`` is the program from which ``prepare`` made ``quantized``. The last block has no
    tap, since its output is the program's. ``patterns`` name modules, as for ``feature_names``,
    which raises ValueError for one that fits nothing; a tensor is read behind its quantizer.
    """
    nodes = {node.name: node for node in original.graph.nodes}
    if patterns:
        last = {float_name(node): node.name for node in quantized.graph.nodes}
        chosen = feature_names(original, patterns)
        return [Tap(last[name], name) for name in chosen if name in last]
    ends = [end for block in find_blocks(quantized)[:-1] for end in block.ends]
    return [
        Tap(end.name, float_name(end)) for end in ends if is_float_tensor(nodes[float_name(end)])
    ]
