"""Embedding tables as integers: a quarter of the size, dequantized after the look-up."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from edgekd.graph.tensors import add_tensor, constant, free_name, is_op, is_shared

aten = torch.ops.aten


def quantize_embeddings(module: fx.GraphModule) -> list[str]:
    """Store every table that is indexed by inputs as int8, in place; return the tables' names.

    One step a row, so that only the rows that are looked up are turned back into numbers: their
    codes times their step. A table that something else reads too (tied weights) stays as it is,
    and so does one with constant indices, as of positions: ONNX Runtime looks these up when it
    loads the model. The weights change by at most half a step: 1/254 of the row's largest.
    """
    found = []
    depends = _computed(module)
    for node in list(module.graph.nodes):
        if not is_op(node, aten.embedding.default) or node.args[1] not in depends:
            continue
        read = node.args[0]
        table = constant(module, read)
        if isinstance(read, fx.Node) and table is not None and not is_shared(module, read):
            found.append(str(read.target))
            _store(module, node, str(read.target), table)
    return found


@torch.no_grad()
def _store(module: fx.GraphModule, node: fx.Node, name: str, table: Tensor) -> None:
    steps = (table.abs().amax(1, keepdim=True) / 127.0).clamp_min(torch.finfo(table.dtype).tiny)
    codes = torch.round(table / steps).to(torch.int8)
    names = (free_name(module, f"{name}_{what}") for what in ("codes", "scale"))
    read, read_steps = (
        add_tensor(module, n, t, before=node) for n, t in zip(names, (codes, steps), strict=True)
    )
    call, ids = module.graph.call_function, node.args[1]
    with module.graph.inserting_before(node):
        rows = call(aten.to.dtype, (call(aten.embedding.default, (read, ids)), table.dtype))
        value = call(aten.mul.Tensor, (rows, call(aten.embedding.default, (read_steps, ids))))
    node.replace_all_uses_with(value)


def _computed(module: fx.GraphModule) -> set[object]:
    """Return the inputs of the program and what is computed from them."""
    found: set[object] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or any(n in found for n in node.all_input_nodes):
            found.add(node)
    return found
