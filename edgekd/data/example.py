"""A batch of samples to trace a model with."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from edgekd.data.source import Dataset
from edgekd.model.load import OpenedModel


def example_batch(data: Dataset, opened: OpenedModel) -> tuple[Tensor, ...]:
    """Return an example batch in the order of forward's arguments, where the data names them.

    ``opened`` has a module; a program brings its own example.
    """
    arrays = data.example()
    assert opened.module is not None
    arguments = list(inspect.signature(opened.module.forward).parameters)
    if set(arrays) <= set(arguments):
        arrays = {name: arrays[name] for name in arguments if name in arrays}
    return tuple(map(torch.from_numpy, arrays.values()))
