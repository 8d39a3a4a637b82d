"""Save a module so that edgekd, and anything else that reads torch.export files, can open it."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.model.trace import export_batched, quiet
from edgekd.model.user_code import first_line


def save_model(
    module: nn.Module, example_input: Tensor | tuple[Tensor, ...], path: str | os.PathLike[str]
) -> None:
    """Write ``module`` as a torch.export archive (``.pt2``) that takes any batch size.

    ``example_input`` is one batch, or a tuple with one for each argument of forward; axis 0 is the
    batch. Two rows of it are stored in the file. The module is left as it was (mode and device).
    The file appears whole or not at all. Raises ModelError when the module cannot be exported or
    the file not be written.
    """
    example = example_input if isinstance(example_input, tuple) else (example_input,)
    example = tuple(x.detach().cpu() if isinstance(x, Tensor) else x for x in example)
    on_cpu = all(x.device.type == "cpu" for x in (*module.parameters(), *module.buffers()))
    # The copy keeps the caller's module on its device.
    module = module if on_cpu else copy.deepcopy(module).cpu()
    with evaluating(module):
        program = export_batched(module, example)
    buffer = io.BytesIO()
    try:
        with quiet():
            torch.export.save(program, buffer)
    except Exception as error:
        raise ModelError(f"the model cannot be saved: {first_line(error)}") from error
    _write(Path(path), buffer.getbuffer())


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put every layer into eval mode, and back into the mode that each had before."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def _write(path: Path, data: memoryview) -> None:
    """Write beside ``path`` and rename, so that a reader never sees half a file."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).chmod(0o644)  # mkstemp makes it private
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror or error}") from error
