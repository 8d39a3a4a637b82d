"""The exponential moving average of a network's weights over the steps of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def warm_decay(decay: float, step: int) -> float:
    """Return ``min(decay, (1 + step) / (10 + step))``, the decay at ``step`` (from 1).

    A constant decay of 0.999 would still hold a third of the first weights after a thousand steps.
    With the ramp the average covers about the last tenth of a short training. It is the rule of
    TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``.
    """
    return min(decay, (1 + step) / (10 + step))


def moving_average(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    """Return the ``multi_avg_fn`` of ``torch.optim.swa_utils.AveragedModel`` for this decay.

    It changes the averages in place to ``d * average + (1 - d) * current``, with d from
    ``warm_decay``.
    """

    @torch.no_grad()
    def update(averages: Any, current: Any, step: Tensor | int) -> None:
        torch._foreach_lerp_(averages, current, 1.0 - warm_decay(decay, int(step)))

    return update
