"""Between exported programs (what is stored) and graph modules (what is rewritten and trained)."""

from __future__ import annotations

import copy
import hashlib
import operator

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from edgekd.graph.canonical import OUT_OF_PLACE
from edgekd.graph.tensors import constant, is_op, shape_of
from edgekd.model.program import callable_module
from edgekd.model.trace import export_batched, quiet


def to_module(program: ExportedProgram) -> fx.GraphModule:
    """Return a callable copy of ``program`` whose tensors are independent of it.

    A program that writes into parts of tensors (``x[:, 0] = 1``) is made functional first, since
    the rewrites take a node's value to stay what it is.
    """
    if any(_writes_what_others_read(node) for node in program.graph.nodes):
        with quiet():
            program = program.run_decompositions({})
    module = callable_module(program)
    assert isinstance(module, fx.GraphModule)
    module = clone(module)
    _compose_batch_norm(module)
    return module


def _writes_what_others_read(node: fx.Node) -> bool:
    """Tell whether ``node`` changes a tensor in a way that replacing one name cannot express."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not schema.is_mutable:
        return False
    if is_op(node, torch.ops.aten.batch_norm.default):
        return False  # changes its statistics in training mode only
    if node.target not in OUT_OF_PLACE:
        return True
    overwritten = node.args[0]
    assert isinstance(overwritten, fx.Node)
    return any(node < reader for alias in _aliases(overwritten) for reader in alias.users)


def _aliases(node: fx.Node) -> set[fx.Node]:
    """Return the other names under which the memory of ``node`` can be read."""
    found, frontier = {node}, [node]
    while frontier:
        current = frontier.pop()
        near = [user for user in current.users if _may_alias(user)]
        if _may_alias(current):
            near += [n for n in current.all_input_nodes if n.op != "get_attr"]
        frontier += [n for n in near if n not in found]
        found.update(near)
    return found - {node}


def _may_alias(node: fx.Node) -> bool:
    """Tell whether the output of ``node`` may share memory with its input."""
    aten = torch.ops.aten
    sometimes = (aten.reshape.default, aten.flatten.using_ints, aten.contiguous.default)
    if is_op(node, operator.getitem, *sometimes, aten.dropout.default):
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(
        value.alias_info is not None and not value.alias_info.is_write for value in schema.returns
    )


def _compose_batch_norm(module: fx.GraphModule) -> None:
    """Undo what making a program functional does to batch norms."""
    aten = torch.ops.aten
    for node in list(module.graph.nodes):
        norm = node.args[0] if is_op(node, operator.getitem) and node.args[1] == 0 else None
        if not is_op(norm, aten._native_batch_norm_legit_no_training.default):
            continue
        assert isinstance(norm, fx.Node)
        *tensors, momentum, eps = norm.args
        node.target = aten.batch_norm.default
        node.args = (*tensors, False, momentum, eps, False)
    module.graph.eliminate_dead_code()
    module.recompile()


def clone(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy whose graph and tensors are independent of the original's."""
    with quiet():
        return copy.deepcopy(module)


def to_program(module: fx.GraphModule, example: tuple[Tensor, ...]) -> ExportedProgram:
    """Export a rewritten module again, axis 0 of every input free.

    Raises ModelError if the rewritten module cannot be exported.
    """
    return export_batched(module, example)


def refresh(module: fx.GraphModule, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """Return ``module`` exported and opened again, which recomputes every recorded shape."""
    return to_module(to_program(module, example))


def digest(module: fx.GraphModule) -> str:
    """Return the SHA-256 of what a program computes: its code and all tensors that it reads."""
    hasher = hashlib.sha256(module.code.encode())
    for node in module.graph.nodes:
        if (tensor := constant(module, node)) is not None:
            stored = tensor.detach().cpu().contiguous()
            hasher.update(f"{node.target}:{stored.dtype}:{tuple(stored.shape)};".encode())
            hasher.update(stored.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def output_nodes(module: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes of a program's outputs, in the order of ``output_tensors``."""
    found: list[fx.Node] = []
    fx.node.map_arg(module.graph.output_node().args, found.append)
    return found


def sample_axes(module: fx.GraphModule) -> list[int]:
    """Return for each output on which axis its samples are: the first one that export left free.

    Where nothing is recorded, it is the axis 0.
    """
    return [_free_axis(node) for node in output_nodes(module)]


def _free_axis(node: fx.Node) -> int:
    shape = shape_of(node)
    if shape is None:
        sources = node.all_input_nodes[:1]
        return _free_axis(sources[0]) if sources else 0
    free = (axis for axis, size in enumerate(shape) if isinstance(size, torch.SymInt))
    return next(free, 0)


def divide_first_output(module: fx.GraphModule, divisor: float) -> None:
    """Let a program's first output be divided, in place; by 1 nothing changes.

    The names of all nodes stay, and so do the other outputs, even one that is the same tensor.
    """
    if divisor == 1:
        return
    end = module.graph.output_node()
    first, *others = output_nodes(module)
    with module.graph.inserting_before(end):
        divided = module.graph.call_function(torch.ops.aten.div.Tensor, (first, divisor))
    divided.meta["val"] = first.meta.get("val")
    left = iter([divided, *others])
    end.args = fx.node.map_arg(end.args, lambda _: next(left))
    module.recompile()


def output_tensors(value: object) -> tuple[Tensor, ...]:
    """Return a model's outputs in order, from a tensor, a tuple, a list or a dict of tensors."""
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, dict):
        value = tuple(value.values())
    assert isinstance(value, (tuple, list))
    return tuple(value)
