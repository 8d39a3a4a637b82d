"""Batch norms in training: the statistics of each batch, and new running statistics afterwards."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, fx

from edgekd.graph.batchnorm import batch_norms
from edgekd.graph.taps import with_outputs
from edgekd.graph.tensors import constant

Frozen = Collection[str]  # names of stored tensors that are not to change


def train_batch_norm(
    module: fx.GraphModule, on: bool, *, momentum: float | None = None, frozen: Frozen = ()
) -> fx.GraphModule:
    """Switch all batch norms of ``module`` in place, and return it; not those that are ``frozen``.

    When ``on`` they normalise by the statistics of the batch and update the running ones, with
    ``momentum`` or else their own. A norm of momentum 0 (a cumulative average when it was
    traced) takes 0.1, torch's default.
    """
    for norm in _changing(module, frozen):
        arguments = list(norm.args)
        arguments[5] = on
        if on:
            arguments[6] = momentum or arguments[6] or 0.1
        norm.args = tuple(arguments)
    module.recompile()
    return module


def _changing(module: fx.GraphModule, frozen: Frozen) -> list[fx.Node]:
    """Return the batch norms whose running mean is not among the frozen tensors."""
    return [n for n in batch_norms(module) if str(n.args[3].target) not in frozen]  # type: ignore


@torch.no_grad()
def reestimate_batch_norm(
    module: fx.GraphModule, batches: Iterable[tuple[Tensor, ...]], *, frozen: Frozen = ()
) -> int:
    """Set the running statistics to those of ``batches`` under the weights as they are now.

    ``batches`` are the program's inputs, on its device; every batch norm sees the batch
    normalised by its own statistics in the norms before it. Returns how many batches there were;
    without any, or without batch norms, nothing changes.

    With weight n / sum(n) for a batch of n samples: ``mean = E[mean_b]`` and ``var = E[var_b +
    mean_b^2] - mean^2``, the moments of all samples together. Source: Wu & Johnson, "Rethinking
    'Batch' in BatchNorm", arXiv 2105.07576, section 3 ("PreciseBN").
    """
    norms = _changing(module, frozen)
    if not norms:
        return 0
    trained = train_batch_norm(with_outputs(module, []), True, momentum=1.0, frozen=frozen)
    stored = [(constant(module, norm.args[3]), constant(module, norm.args[4])) for norm in norms]
    sums = [
        (torch.zeros_like(m, dtype=torch.float64), torch.zeros_like(v, dtype=torch.float64))
        for m, v in stored
        if m is not None and v is not None
    ]
    total = count = 0
    for inputs in batches:
        trained(*inputs)  # momentum 1: the running statistics are now those of this batch
        size = len(inputs[0])
        for (mean, variance), (first, second) in zip(stored, sums, strict=True):
            assert mean is not None and variance is not None
            first.add_(size * mean)
            second.add_(size * (variance.double() + mean.double().square()))
        total, count = total + size, count + 1
    for (mean, variance), (first, second) in zip(stored, sums, strict=True):
        if total and mean is not None and variance is not None:
            average = first / total
            mean.copy_(average)
            variance.copy_((second / total - average.square()).clamp_min(0))
    return count
