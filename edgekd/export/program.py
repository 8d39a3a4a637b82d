"""The float program of a bundle: what torch opens and trains on, and nothing of how it was made."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from edgekd.model.load import open_model
from edgekd.model.trace import quiet


def shareable_program(stored: Path) -> bytes:
    """Return a stored step's ``model.pt2`` as a torch.export archive that can be given away.

    A step's program holds two of the user's samples as its example inputs, and with every operation
    the path and the text of the line that made it. Here the inputs are ones, of the same shapes
    and dtypes, and the lines are gone. Raises ModelError when the file is damaged.
    """
    program = open_model(stored).program
    assert program is not None and program.example_inputs is not None  # edgekd wrote it
    args, kwargs = program.example_inputs
    # Ones are ids that every table has, and masks that hide nothing.
    program.example_inputs = (tuple(torch.ones_like(tensor) for tensor in args), kwargs)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    archive = io.BytesIO()
    with quiet():
        torch.export.save(program, archive)
    return archive.getvalue()
