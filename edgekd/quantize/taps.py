"""Reading the tensors between the blocks of a quantized program and of its float original."""

from __future__ import annotations

from torch import fx

from edgekd.graph.extract import extract
from edgekd.graph.program import output_nodes
from edgekd.graph.tensors import is_float_tensor
from edgekd.quantize.blocks import find_blocks, float_name


def add_taps(
    quantized: fx.GraphModule, original: fx.GraphModule
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return both programs with the outputs of their blocks behind their own outputs.

    ``original`` is the program from which ``prepare`` made ``quantized``. The results return flat
    tuples and share all tensors with the programs that they come from: training one trains the
    other. The last block has no tap, since its output is the program's. Where the program has no
    place to cut, nothing is added.
    """
    nodes = {node.name: node for node in original.graph.nodes}
    ends = [end for block in find_blocks(quantized)[:-1] for end in block.ends]
    pairs = [(end, nodes[float_name(end)]) for end in ends]
    pairs = [pair for pair in pairs if is_float_tensor(pair[1])]
    return (
        _with_outputs(quantized, [found for found, _ in pairs]),
        _with_outputs(original, [expected for _, expected in pairs]),
    )


def _with_outputs(module: fx.GraphModule, more: list[fx.Node]) -> fx.GraphModule:
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    return extract(module, inputs, [*output_nodes(module), *more])
