"""One step of gradient descent that can itself be differentiated."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def unrolled_step(parameters: Mapping[str, Tensor], loss: Tensor, rate: float) -> dict[str, Tensor]:
    """Return ``w - rate * dloss/dw`` for every parameter, as part of the graph.

    For ``torch.func.functional_call``: a loss of the network with these weights has a gradient in
    whatever weighed the terms of ``loss``. That is how a weight learns on held-out samples (Hu et
    al., ICLR 2024, arXiv 2312.15112; Ren et al., ICML 2018, arXiv 1803.09050). It costs about as
    much again as the step itself.

    Args:
        parameters: the weights by name; those of a last layer alone are a cheaper stand-in.
        loss: scalar, made from them.
        rate: of the step, that of the training.

    A parameter that the loss does not use comes back as it is.
    """
    found = torch.autograd.grad(
        loss, list(parameters.values()), create_graph=True, allow_unused=True
    )
    return {
        name: weight if gradient is None else weight - rate * gradient
        for (name, weight), gradient in zip(parameters.items(), found, strict=True)
    }
