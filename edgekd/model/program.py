"""From an opened model to the one form that the rest of edgekd works on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.model.load import OpenedModel
from edgekd.model.signature import check_stateless_inference, read_spec
from edgekd.model.trace import EXAMPLE_BATCH, Example, batch_of_two, export_batched, quiet, run
from edgekd.spec import ModelSpec

_UNLIMITED = 2**31  # a batch limit above this is none; torch writes infinity


@dataclass(frozen=True)
class LoadedModel:
    """A model as an exported program: eval mode, on the CPU, axis 0 of every input free.

    ``spec`` names inputs and outputs; its batch axes are None. ``example`` is one input batch of 2.
    """

    program: torch.export.ExportedProgram
    spec: ModelSpec
    example: Example
    sha256: str
    source: dict[str, str]


def example_from_program(opened: OpenedModel) -> Example | None:
    """Return the sample inputs that a .pt2 carries, as a batch of 2, or None when it has none.

    Raises ModelError when they are not plain positional tensors with a batch axis.
    """
    if opened.program is None or opened.program.example_inputs is None:
        return None
    args, kwargs = opened.program.example_inputs
    if kwargs:
        raise ModelError(
            f"{opened.source['file']} was exported with keyword inputs ({', '.join(kwargs)}): "
            "export it with positional tensors, or with edgekd.save_model"
        )
    return batch_of_two(tuple(args))


def to_program(opened: OpenedModel, example: Example | None) -> LoadedModel:
    """Export what was opened, or take the program of a .pt2 over, and read its signature.

    ``example`` is one batch for each input; a .pt2 brings its own. Raises ModelError when there is
    none, the model does not run on it, or it cannot be exported for any batch size.
    """
    if example is None:
        example = example_from_program(opened)
    if example is None:
        raise ModelError("the shape of the input is not known: give --input-shape, or data")
    example = batch_of_two(example)
    program = _program(opened, example)
    check_stateless_inference(program)
    return LoadedModel(program, read_spec(program), example, opened.sha256, opened.source)


def _program(opened: OpenedModel, example: Example) -> torch.export.ExportedProgram:
    if opened.module is not None:
        return export_batched(opened.module, example)
    assert opened.program is not None  # OpenedModel has one of the two
    module = callable_module(opened.program)
    if _has_free_batch(opened.program):
        run(module, example)
        return opened.program
    return _free_batch(opened, module, example)


def callable_module(program: torch.export.ExportedProgram) -> nn.Module:
    """Return the program as a module that takes other input shapes than at its export."""
    with quiet():
        module: nn.Module = program.module(check_guards=False)
    # torch puts the comparison into a hook even without guards.
    module._forward_pre_hooks.clear()
    module._forward_pre_hooks_with_kwargs.clear()
    return module


def _has_free_batch(program: torch.export.ExportedProgram) -> bool:
    """Tell whether axis 0 of every input is one free symbol without a limit, and no other axis."""
    batches = set()
    for value in input_values(program):
        batch, *rest = _sizes(value)
        if isinstance(batch, int) or not all(isinstance(size, int) for size in rest):
            return False
        batches.add(batch.node.expr)
    limits = [program.range_constraints.get(batch) for batch in batches]
    return len(batches) == 1 and all(
        limit is None or bool(limit.lower <= EXAMPLE_BATCH and limit.upper > _UNLIMITED)
        for limit in limits
    )


def _sizes(value: Tensor) -> list[Any]:
    """Return the shape, whose symbolic entries torch's own types do not mention; 1 for a scalar."""
    return list(value.shape) or [1]


def input_values(program: torch.export.ExportedProgram) -> Iterator[Tensor]:
    """Yield the fake tensor of each user input, in call order."""
    names = program.graph_signature.user_inputs
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    for name in names:
        value = values.get(name) if isinstance(name, str) else None
        if not isinstance(value, Tensor):
            raise ModelError(f"input {name!r} of the exported program is not a tensor")
        yield value


def _free_batch(
    opened: OpenedModel, module: nn.Module, example: Example
) -> torch.export.ExportedProgram:
    """Export again a program that was made for one batch size (or one range of them)."""
    advice = "save it from the source model with edgekd.save_model"
    try:
        program = export_batched(module, example)
    except ModelError as error:
        raise ModelError(
            f"{opened.source['file']} was exported for a fixed batch size and cannot be freed "
            f"of it ({error}): {advice}"
        ) from error
    if not _rows_are_independent(program, example):
        raise ModelError(
            f"{opened.source['file']} was exported for a fixed batch size, and its result changes "
            f"with the batch: {advice}"
        )
    return program


def _rows_are_independent(program: torch.export.ExportedProgram, example: Example) -> bool:
    """Compare a row's result in a batch of 2 with the same row's in a batch of 3.

    A batch size baked into the graph may broadcast silently instead of failing.
    """
    module = callable_module(program)
    rows = torch.tensor([0, 1, 0])
    two = torch.utils._pytree.tree_leaves(run(module, example))
    three = torch.utils._pytree.tree_leaves(run(module, tuple(x[rows] for x in example)))
    return all(_same_rows(a, b) for a, b in zip(two, three, strict=True))


def _same_rows(two: Tensor, three: Tensor) -> bool:
    if two.ndim == 0 or two.shape != three[:2].shape:
        return two.ndim == three.ndim == 0
    return torch.allclose(two.double(), three[:2].double(), rtol=1e-3, atol=1e-4)
