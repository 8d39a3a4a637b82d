"""Between exported programs (what is stored) and graph modules (what is rewritten and trained)."""

from __future__ import annotations

import copy

from torch import Tensor, fx
from torch.export import ExportedProgram

from edgekd.model.program import callable_module
from edgekd.model.trace import export_batched, quiet


def to_module(program: ExportedProgram) -> fx.GraphModule:
    """Return a callable copy of ``program`` whose tensors are independent of it."""
    module = callable_module(program)
    assert isinstance(module, fx.GraphModule)
    return clone(module)


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


def output_tensors(value: object) -> tuple[Tensor, ...]:
    """Return a model's outputs in order, from a tensor, a tuple, a list or a dict of tensors."""
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, dict):
        value = tuple(value.values())
    assert isinstance(value, (tuple, list))
    return tuple(value)
