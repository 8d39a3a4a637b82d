"""Which inputs of a program are row numbers of a table, such as the ids of words."""

from __future__ import annotations

import torch
from torch import fx

from edgekd.spec import ModelSpec

_COPIES = ("aten._to_copy.default", "aten.to.dtype", "aten.clone.default", "aten.alias.default")


def table_sizes(program: torch.export.ExportedProgram, spec: ModelSpec) -> dict[str, int]:
    """Return the number of rows by input name, for inputs that an embedding reads as they are.

    The smallest table counts where several read the same input.
    """
    placeholders = [str(name) for name in program.graph_signature.user_inputs]
    names = dict(zip(placeholders, (tensor.name for tensor in spec.inputs), strict=True))
    sizes: dict[str, int] = {}
    for node in program.graph.nodes:
        if str(node.target) != "aten.embedding.default":
            continue
        table, ids = node.args[0], node.args[1]
        while isinstance(ids, fx.Node) and str(ids.target) in _COPIES:
            ids = ids.args[0]
        name = names.get(ids.name) if isinstance(ids, fx.Node) else None
        if name is not None:
            rows = int(table.meta["val"].shape[0])
            sizes[name] = min(rows, sizes.get(name, rows))
    return sizes
