"""Which models images can be synthesised for."""

from __future__ import annotations

import inspect

import torch
from torch import fx

from edgekd.errors import ModelError
from edgekd.graph.batchnorm import batch_norms
from edgekd.graph.tensors import shape_of
from edgekd.model.load import OpenedModel

ALTERNATIVES = "give --data with a few hundred unlabelled samples: an .npz file or an image folder"
ImageShape = tuple[int, int, int]


def example_images(
    opened: OpenedModel, shape: tuple[int, ...] | None, name: str
) -> tuple[torch.Tensor]:
    """Return two blank images of ``shape`` (C, H, W), to trace the model with.

    Raises ModelError when there is no shape, it is not that of an image, or the network takes more
    than one input.
    """
    if opened.module is not None and (count := _required_arguments(opened.module)) > 1:
        raise _refusal(name, f"takes {count} inputs")
    if shape is None:
        raise ModelError(
            f"without --data the input shape of {name} is not known: add --input-shape, "
            "as 3,224,224, or --data"
        )
    _image_shape(shape, name)
    return (torch.zeros(2, *shape),)


def check_network(module: fx.GraphModule, name: str) -> ImageShape:
    """Return the shape (C, H, W) of the images that a program takes.

    Raises ModelError, which names the alternatives, unless it has one float32 input ``(N, C, H,
    W)`` of fixed size and at least one batch norm with stored statistics.
    """
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise _refusal(name, f"takes {len(inputs)} inputs")
    value = inputs[0].meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        raise _refusal(name, "does not take float32 images")
    shape = _image_shape((shape_of(inputs[0]) or ())[1:], name)
    if not batch_norms(module):
        raise _refusal(name, "has no BatchNorm layer")
    return shape


def _required_arguments(module: torch.nn.Module) -> int:
    """Return how many arguments forward cannot do without."""
    free = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    arguments = inspect.signature(module.forward).parameters.values()
    return sum(a.kind in free and a.default is a.empty for a in arguments)


def _image_shape(shape: tuple[object, ...], name: str) -> ImageShape:
    sizes = [size for size in shape if isinstance(size, int)]
    if len(shape) != 3 or len(sizes) != 3:
        text = ", ".join("?" if not isinstance(size, int) else str(size) for size in shape)
        raise _refusal(
            name, f"takes inputs of shape ({text}) and not images (channels, height, width)"
        )
    return sizes[0], sizes[1], sizes[2]


def _refusal(name: str, what: str) -> ModelError:
    return ModelError(
        f"without --data, images are made from the statistics of BatchNorm layers, but {name} "
        f"{what}: {ALTERNATIVES}"
    )
