"""A batch in several processes: each runs the network on its part, and all see all answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, distributed

from edgekd.errors import StageError
from edgekd.processes.group import count, rank, together

Run = Callable[[tuple[Tensor, ...]], list[Tensor]]


def shared(run: Run, inputs: tuple[Tensor, ...], axes: Sequence[int] | None = None) -> list[Tensor]:
    """Return what ``run`` gives for the whole batch, of which this process computes its part.

    ``inputs`` are the whole batch, the same in all processes; samples are on the first axis.
    ``axes`` says for each result on which axis its samples are, or rows that follow from them (a
    sample's tokens); by default it is the first. So a loss of the results is that of the whole
    batch, whatever it compares. Gradients come back multiplied by the number
    of processes, since DistributedDataParallel will divide their sum by it. A batch with fewer
    samples than processes is computed whole by all of them.

    Raises StageError for a result without rows for each sample.
    """
    size, parts = len(inputs[0]), count()
    if not together() or size < parts:
        return run(inputs)
    edges = [size * part // parts for part in range(parts + 1)]
    mine = slice(edges[rank()], edges[rank() + 1])
    found = run(tuple(tensor[mine] for tensor in inputs))
    sizes = [last - first for first, last in pairwise(edges)]
    return [
        _gathered(tensor, sizes, axis)
        for tensor, axis in zip(found, axes or [0] * len(found), strict=True)
    ]


def _gathered(tensor: Tensor, sizes: Sequence[int], axis: int) -> Tensor:
    rows, rest = divmod(tensor.shape[axis] if tensor.ndim else 0, sizes[rank()])
    if rest or not rows:
        raise StageError(
            f"a tensor of shape {tuple(tensor.shape)} that is compared in training has no rows for "
            "each sample, so that a batch cannot be shared out; train in one process"
        )
    lengths = [rows * size for size in sizes]
    whole: Tensor = _Gather.apply(tensor.movedim(axis, 0), lengths)  # type: ignore[no-untyped-call]
    return whole.movedim(0, axis)


class _Gather(torch.autograd.Function):
    """All processes' rows, in their order; rows may be unequally many."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, lengths: Sequence[int]) -> Tensor:
        start = sum(lengths[: rank()])
        ctx.rows = slice(start, start + lengths[rank()])
        longest = max(lengths)
        padded = tensor.new_zeros(longest, *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in lengths]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.rows] * count(), None
