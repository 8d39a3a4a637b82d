"""From a dataset to batches of tensors in the model's input order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgekd.data.samples import Indices
from edgekd.data.source import Dataset, Samples
from edgekd.spec import ModelSpec

Batch = tuple[tuple[Tensor, ...], Tensor | None]


def batches(
    dataset: Dataset,
    samples: Samples,
    spec: ModelSpec,
    batch_size: int,
    *,
    order: np.random.Generator | None = None,
    limit: int | None = None,
) -> Iterator[Batch]:
    """Yield ``(inputs, targets)``; shuffled by ``order`` if given, else in the samples' order.

    Inputs are preprocessed and come in the order of ``spec.inputs``; targets are None when the
    data has none. The last batch may be smaller, but when shuffling a rest of one sample is
    dropped, since one sample has no batch statistics. After ``limit`` samples, if given, it ends.
    """
    for _, inputs, targets in indexed_batches(
        dataset, samples, spec, batch_size, order=order, limit=limit
    ):
        yield inputs, targets


def indexed_batches(
    dataset: Dataset,
    samples: Samples,
    spec: ModelSpec,
    batch_size: int,
    *,
    order: np.random.Generator | None = None,
    skip: int = 0,
    limit: int | None = None,
    weights: npt.NDArray[np.float64] | None = None,
) -> Iterator[tuple[Indices, tuple[Tensor, ...], Tensor | None]]:
    """Yield what ``batches`` does, and before it the places of the batch in ``samples``.

    The first ``skip`` batches are left out, without reading their samples. With ``weights``, which
    sum to 1, as many samples are drawn by ``order`` as there are, each as often as its weight says.
    """
    count = len(samples)
    if order is None:
        indices = np.arange(count)
    elif weights is None:
        indices = order.permutation(count)
    else:
        indices = order.choice(count, count, p=weights)
    indices = indices[:limit]
    for start in range(skip * batch_size, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        if order is not None and start and len(chosen) == 1 < batch_size:
            return
        arrays, targets = dataset.inputs(samples, chosen)
        inputs = tuple(torch.from_numpy(arrays[tensor.name]) for tensor in spec.inputs)
        yield chosen, inputs, None if targets is None else torch.from_numpy(targets)
