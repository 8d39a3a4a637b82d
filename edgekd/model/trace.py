"""Turn a module into a torch.export program whose batch axis is free."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.model.user_code import first_line

Example = tuple[Tensor, ...]
EXAMPLE_BATCH = 2  # 0 and 1 are special to torch.export: they would fix the batch axis


def export_batched(module: nn.Module, example: Example) -> torch.export.ExportedProgram:
    """Export ``module`` (in eval mode, on the CPU) with axis 0 of every input free.

    ``example`` holds one batch for each input of forward, in order. Raises ModelError when forward
    fails on it, or the network cannot be exported for any batch size.
    """
    example = batch_of_two(example)
    run(module, example)
    # By tensor, not by argument name, so that forward(*inputs) works too.
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in example:
        shapes[tensor] = {0: torch.export.Dim.DYNAMIC}
    with quiet():
        try:
            return torch.export.export(module, example, dynamic_shapes=shapes)
        except Exception as error:
            raise ModelError(f"the model cannot be exported: {_reason(error)}") from error


def batch_of_two(example: Example) -> Example:
    """Return the example with exactly two rows along axis 0, repeating or dropping rows.

    Raises ModelError for an input without a batch axis, or inputs that disagree about the batch.
    """
    for position, tensor in enumerate(example):
        if not isinstance(tensor, Tensor):
            raise ModelError(f"input {position} is a {type(tensor).__name__}, not a tensor")
        if tensor.ndim == 0 or tensor.shape[0] == 0:
            raise ModelError(
                f"input {position} of shape {tuple(tensor.shape)} has no batch axis: axis 0 of "
                "every input must be the batch"
            )
    sizes = [tensor.shape[0] for tensor in example]
    if not sizes or len(set(sizes)) > 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in example) or "none"
        raise ModelError(f"axis 0 of every input must be the same batch; shapes given: {shapes}")
    if sizes[0] == EXAMPLE_BATCH:
        return example
    rows = torch.tensor([0, min(1, sizes[0] - 1)])
    return tuple(tensor[rows] for tensor in example)


def run(module: nn.Module, example: Example) -> object:
    """Call ``module`` without gradients; raises ModelError that names the shapes and the reason."""
    try:
        with torch.no_grad(), quiet():
            return module(*example)
    except Exception as error:
        shapes = ", ".join(f"{tuple(x.shape)} {str(x.dtype)[6:]}" for x in example)
        raise ModelError(
            f"the model does not run on inputs of shape {shapes}: {first_line(error)}"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings of torch's own code, which a user can do nothing about, off the terminal."""
    with warnings.catch_warnings():
        for category in (UserWarning, FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=r"(torch|copyreg)(\.|$)")
        # Every LSTM and GRU causes this one, and torch blames contextlib for it.
        warnings.filterwarnings("ignore", "The tensor attributes? .* assigned during export")
        yield


def _reason(error: Exception) -> str:
    """Say in one line why torch.export gave up; its own messages run over a screen."""
    text = str(error)
    if "specialized it to be a constant" in text or "Constraints violated" in text:
        return (
            "it fixes the batch size (a number in reshape, view or expand, or a branch on "
            "x.shape[0]); use -1, flatten(1) or x.shape[0] there"
        )
    if "data-dependent" in text:
        return "its control flow depends on the values of a tensor (an if, a loop or .item())"
    return first_line(error)
