"""How much each unit of a group matters, from the tensors that hold it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Places = Sequence[Sequence[int]]  # for each unit, its positions along an axis


def unit_sums(tensor: Tensor, axis: int, places: Places) -> Tensor:
    """Return the sum of ``tensor`` over everything that belongs to each unit: ``(units,)``."""
    others = [other for other in range(tensor.ndim) if other != axis]
    along = tensor.sum(others) if others else tensor
    lengths = torch.tensor([len(positions) for positions in places])
    flat = torch.tensor([p for positions in places for p in positions], dtype=torch.long)
    unit_of = torch.repeat_interleave(torch.arange(len(places)), lengths)
    return along.new_zeros(len(places)).index_add(0, unit_of, along[flat])


def magnitude(members: Sequence[tuple[Tensor, int, Places]], power: int) -> Tensor:
    """Return the group norm of each unit: ``(units,)``, mean 1 over the group.

    Each member is (weight, axis, places). A unit's score in a weight is the sum of ``|w| ** power``
    over what belongs to it; scores are divided by their mean over the units, so that large tensors
    do not drown small ones, and averaged over the members.

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023 (arXiv 2301.12900),
    section 3.3, with the mean in place of the sum.
    """
    scores = [
        normalised(unit_sums(tensor.abs().pow(power), axis, places))
        for tensor, axis, places in members
    ]
    return torch.stack(scores).mean(0)


def normalised(scores: Tensor) -> Tensor:
    """Return ``scores`` divided by their mean; all zeros stay zeros."""
    return scores / scores.mean().clamp_min(1e-30)


def gate_gradient(members: Sequence[tuple[Tensor, Tensor, int, Places]]) -> Tensor:
    """Return the loss's derivative by a gate on each unit: ``(units,)``.

    Each member is (weight, gradient, axis, places) of a weight that reads the units. Scaling what
    a unit gives scales the weights that read it, so the derivative at gate 1 is the sum of weight
    times gradient over all of them. Its negative is the first-order change of the loss when the
    unit is removed.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019
    (arXiv 1906.10771), section 3.1.
    """
    parts = [
        unit_sums(weight * gradient, axis, places) for weight, gradient, axis, places in members
    ]
    return torch.stack(parts).sum(0)
