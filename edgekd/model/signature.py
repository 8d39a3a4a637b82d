"""Read names, dtypes and shapes of a program, and refuse what edge runtimes cannot run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgekd.errors import ModelError
from edgekd.spec import ModelSpec, TensorSpec

Program = torch.export.ExportedProgram


def read_spec(program: Program) -> ModelSpec:
    """Return the inputs (forward's argument names) and outputs of ``program``.

    One tensor is called ``output``; a tuple's or list's are ``output_0`` and on; a dict's have its
    keys, in its order. Symbolic axes are None. Raises ModelError for any other structure.
    """
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = [_tensor(str(name), values.get(name)) for name in program.graph_signature.user_inputs]
    results = program.graph_signature.user_outputs
    names = _output_names(program.call_spec.out_spec)
    outputs = [_tensor(n, values.get(r)) for n, r in zip(names, results, strict=True)]
    return ModelSpec(tuple(inputs), tuple(outputs))


def _tensor(name: str, value: Any) -> TensorSpec:
    if not isinstance(value, Tensor):
        raise ModelError(f"{name} of the model is not a tensor")
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(name, str(value.dtype).removeprefix("torch."), shape)


def _output_names(tree: Any) -> list[str]:
    if tree.is_leaf():
        return ["output"]
    children = [tree.child(position) for position in range(tree.num_children)]
    if not children or not all(child.is_leaf() for child in children):
        raise ModelError(
            "the outputs of the model are nested or empty: return one tensor, or a flat tuple, "
            "list or dict of tensors"
        )
    if issubclass(tree.type, dict):
        return [str(key) for key in tree.context]
    return [f"output_{position}" for position in range(len(children))]


def check_stateless_inference(program: Program) -> None:
    """Raise ModelError for a graph in training mode, or one that changes its own buffers."""
    buffers = program.graph_signature.inputs_to_buffers
    for node in program.graph.nodes:
        if _is_training(node):
            raise ModelError(
                f"the model runs {node.target} in training mode: call model.eval() before "
                "exporting, and pass training=self.training to functional dropout"
            )
        for name in _written(node) & buffers.keys():
            raise ModelError(
                f"the model changes its buffer {buffers[name]} on every call; edge runtimes "
                "keep no state"
            )


def _written(node: torch.fx.Node) -> set[str]:
    """Return the names of the nodes whose tensors this node's operator changes in place."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return set()
    pairs = zip(schema.arguments, node.args, strict=False)
    return {
        given.name
        for argument, given in pairs
        if argument.is_write and isinstance(given, torch.fx.Node)
    }


def _is_training(node: torch.fx.Node) -> bool:
    """Tell whether a dropout or batch normalization was exported as in training."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return False
    for position, argument in enumerate(schema.arguments):
        if argument.name in ("train", "training"):
            given = node.args[position] if position < len(node.args) else None
            return bool(node.kwargs.get(argument.name, given))
    return False
