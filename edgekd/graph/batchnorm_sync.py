"""Batch norms whose statistics are those of the whole batch, when it lies in several processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, fx

from edgekd.graph.batchnorm import batch_norms
from edgekd.processes.group import count


def synchronise_batch_norm(module: fx.GraphModule) -> fx.GraphModule:
    """Let all batch norms of ``module`` that train share their statistics; return it.

    In place; nothing changes in a run of one process. torch's own SyncBatchNorm is a module, which
    programs do not have, and works on GPUs only; the arithmetic is the same.
    """
    if count() == 1:
        return module
    for norm in batch_norms(module):
        if norm.args[5]:
            norm.target = synchronised_batch_norm
    module.recompile()
    return module


def synchronised_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> Tensor:
    """Return what ``aten.batch_norm`` gives in training for the batches of all processes together.

    Takes its arguments. ``x`` is ``(N, C, ...)``; N may differ between processes. The computation
    is in float32, as in torch's kernels.
    """
    del training, cudnn
    wide = x.float()
    axes = [0, *range(2, x.ndim)]
    # Sums and the count in one message; then squares around the mean, which keep their digits.
    rows = wide.new_tensor([x.numel() // x.shape[1]])
    both = _sum(torch.cat([wide.sum(axes), rows]))
    sums, total = both[:-1], both[-1]
    shape = (1, -1, *[1] * (x.ndim - 2))
    average = sums / total
    centred = wide - average.reshape(shape)
    spread = _sum(centred.square().sum(axes)) / total
    with torch.no_grad():
        unbiased = spread * total / (total - 1).clamp_min(1)
        mean.lerp_(average.to(mean.dtype), momentum)
        variance.lerp_(unbiased.to(variance.dtype), momentum)
    found = centred * torch.rsqrt(spread + eps).reshape(shape)
    if weight is not None:
        found = found * weight.reshape(shape)
    if bias is not None:
        found = found + bias.reshape(shape)
    normalised: Tensor = found.to(x.dtype)
    return normalised


def _sum(tensor: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """The sum over all processes, and its gradient, which is the sum of all gradients."""

    @staticmethod
    def forward(_ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total
