"""How a teacher's answers are put on disk: as they are, in 16 bits, or the likeliest classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgekd.algorithms.restore_targets import restore_targets
from edgekd.data.samples import Array

_LEAST = 1e-9  # a probability that is stored as 0 still has a logarithm


@dataclass(frozen=True)
class Packing:
    """The first ``outputs`` of the answers are kept exactly; features behind them as float16.

    What of a feature does not fit into float16 becomes its largest number. With ``top_k`` only the
    probabilities (float16) of that many classes are kept of the first output, which has ``classes``
    of them; the rest is spread evenly (``restore_targets``), so that probabilities stay what they
    are in sum, and logits come back up to a constant.
    """

    outputs: int
    top_k: int | None = None
    classes: int = 0

    def pack(self, answers: Sequence[Tensor]) -> list[Array]:
        """Return what is stored of a batch, rows on axis 0."""
        first, *others = answers
        found: list[Array] = []
        if self.top_k is None:
            found.append(first.numpy())
        else:
            best = first.float().softmax(-1).topk(min(self.top_k, self.classes), dim=-1)
            found += [best.values.half().numpy(), best.indices.numpy().astype(np.int32)]
        for index, answer in enumerate(others, start=1):
            if index < self.outputs or not answer.is_floating_point():
                found.append(answer.numpy())
            else:
                most = torch.finfo(torch.float16).max
                found.append(answer.float().clamp(-most, most).half().numpy())
        return found

    def unpack(self, stored: Sequence[Array]) -> tuple[Tensor, ...]:
        """Return the answers of some rows; those in 16 bits as float32."""
        tensors = [torch.from_numpy(array) for array in stored]
        if self.top_k is not None:
            probabilities, places, *others = tensors
            full = restore_targets(probabilities, places.long(), self.classes)
            tensors = [full.clamp_min(_LEAST).log(), *others]
        return tuple(t.float() if t.dtype == torch.float16 else t for t in tensors)
