"""Moving a program to another device, with the devices that are written into its graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgekd.graph.tensors import constant


def move(module: fx.GraphModule, device: torch.device) -> None:
    """Move ``module`` in place: its tensors, and the device of every operation that names one.

    Programs are traced on the CPU, so that a ``torch.arange`` in a model's forward has become an
    operation that always makes its result there.
    """
    module.to(device)
    for node in module.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, lambda value: _swap(value, device))
        node.kwargs = fx.node.map_aggregate(node.kwargs, lambda value: _swap(value, device))
        tensor = constant(module, node)
        if tensor is not None and (moved := tensor.to(device)) is not tensor:
            _set(module, str(node.target), moved)  # neither a parameter nor a buffer
    module.recompile()


def _swap(value: Any, device: torch.device) -> Any:
    return device if isinstance(value, torch.device) else value


def _set(module: fx.GraphModule, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, value)
