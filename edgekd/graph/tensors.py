"""Reading and replacing the parameters and buffers that a graph refers to."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, fx, nn


def is_op(node: object, *targets: object) -> bool:
    """Tell whether ``node`` calls one of ``targets``."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def constant(module: fx.GraphModule, node: object) -> Tensor | None:
    """Return the tensor behind a ``get_attr`` node, or None for anything else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner: object = module
    for part in str(node.target).split("."):
        owner = getattr(owner, part, None)
    return owner if isinstance(owner, Tensor) else None


def is_shared(module: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether the tensor behind a ``get_attr`` node is read more than once in the graph."""
    tensor = constant(module, node)
    others = (n for n in module.graph.nodes if n.op == "get_attr" and n is not node)
    return len(node.users) > 1 or any(constant(module, other) is tensor for other in others)


def layer_name(node: fx.Node) -> str:
    """Return the module path of a layer, taken from its weight, as the ONNX export names it.

    ``layer1.0.conv1`` for a weight called ``layer1.0.conv1.weight``; the node's own name for an
    operation without a stored weight.
    """
    weight = node.args[1] if len(node.args) > 1 else None
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return node.name
    path, _, leaf = str(weight.target).rpartition(".")
    return path or leaf


def add_tensor(
    module: fx.GraphModule, name: str, value: Tensor, *, before: fx.Node, trainable: bool = False
) -> fx.Node:
    """Store ``value`` under the dotted ``name`` and return a node that reads it.

    The parts of the name that do not exist yet become plain modules. An existing tensor of that
    name is replaced.
    """
    owner: nn.Module = module
    *path, leaf = name.split(".")
    for part in path:
        child = getattr(owner, part, None)
        if not isinstance(child, nn.Module):
            child = nn.Module()
            owner.add_module(part, child)
        owner = child
    if hasattr(owner, leaf):
        delattr(owner, leaf)
    if trainable:
        owner.register_parameter(leaf, nn.Parameter(value.detach().clone()))
    else:
        owner.register_buffer(leaf, value.detach().clone())
    with module.graph.inserting_before(before):
        return module.graph.get_attr(name)


def free_name(module: fx.GraphModule, name: str) -> str:
    """Return ``name``, with a number behind it if the module has a tensor of that name."""
    stored = (module.named_parameters, module.named_buffers)
    taken = {n for named in stored for n, _ in named(remove_duplicate=False)}
    candidates = itertools.chain([name], (f"{name}_{count}" for count in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def clean(module: fx.GraphModule) -> None:
    """Drop dead nodes and the tensors that nothing reads any more, and recompile."""
    module.graph.eliminate_dead_code()
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)
    module.delete_all_unused_submodules()
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    named = [*module.named_parameters(), *module.named_buffers()]
    for name in [name for name, _ in named if name not in used and not _inside_call(module, name)]:
        path, _, leaf = name.rpartition(".")
        delattr(module.get_submodule(path), leaf)
    module.graph.lint()
    module.recompile()


def _inside_call(module: fx.GraphModule, name: str) -> bool:
    """Tell whether a tensor belongs to a submodule that the graph calls as a whole."""
    calls = (str(node.target) for node in module.graph.nodes if node.op == "call_module")
    return any(name.startswith(f"{call}.") for call in calls)


def shape_of(node: fx.Node) -> tuple[int | torch.SymInt, ...] | None:
    """Return the shape that export recorded for a node's output, or None if unknown."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def is_float_tensor(node: fx.Node) -> bool:
    """Tell whether export recorded a floating-point tensor for a node's output."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def static_spatial(node: object) -> tuple[int, int] | None:
    """Return (H, W) of an ``(N, C, H, W)`` node if both are fixed numbers."""
    shape = shape_of(node) if isinstance(node, fx.Node) else None
    if shape is None or len(shape) != 4:
        return None
    height, width = shape[2], shape[3]
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    return None
