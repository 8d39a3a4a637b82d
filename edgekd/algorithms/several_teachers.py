"""One target out of several teachers, and temperatures that make them equally sure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edgekd.algorithms.cross_entropy import log_probabilities

LOWEST, HIGHEST = 0.05, 20.0
_HALVINGS = 40  # of log(HIGHEST / LOWEST) = 6: leaves less than 1e-11


def ensemble_logits(
    teachers: Sequence[Tensor],
    *,
    weights: Sequence[float] | None = None,
    temperatures: Sequence[float] | None = None,
) -> Tensor:
    """Return ``log sum_k w_k softmax(t_k / T_k)``: logits of the teachers' averaged probabilities.

    They serve as the teacher's logits in every loss. They are the mean of the probabilities, not
    of the logits: a teacher with large logits does not outvote the others.

    Args:
        teachers: logits ``(N, C)`` of every teacher, one or more; no gradient flows into them.
        weights: positive or 0, for every teacher; they are divided by their sum. None: equal.
        temperatures: T_k > 0, from ``entropy_temperatures``. None: all 1.

    Returns ``(N, C)``, float32 or better.

    Raises ValueError for numbers of weights or temperatures that do not fit, negative weights and
    weights that are all 0.
    """
    count = len(teachers)
    weights = [1.0] * count if weights is None else weights
    temperatures = [1.0] * count if temperatures is None else temperatures
    if not count or len(weights) != count or len(temperatures) != count:
        raise ValueError(
            f"{count} teachers have {len(weights)} weights and {len(temperatures)} temperatures"
        )
    if min(weights) < 0 or not sum(weights) > 0 or not min(temperatures) > 0:
        raise ValueError("teachers need weights of 0 and above, not all 0, and temperatures > 0")
    shares = [weight / sum(weights) for weight in weights]
    logs = [
        log_probabilities(logits.detach(), temperature) + math.log(share)
        for logits, temperature, share in zip(teachers, temperatures, shares, strict=True)
        if share > 0
    ]
    return torch.stack(logs).logsumexp(0)


@torch.no_grad()
def entropy_temperatures(
    teachers: Sequence[Tensor], *, target: float | None = None
) -> tuple[float, ...]:
    """Return the temperature for every teacher at which all have the same mean entropy.

    A teacher that is surer than the others would dictate an average of probabilities. The entropy
    of softmax(t / T), mean over the samples, grows with T, so halving log T finds it.

    Args:
        teachers: logits ``(n, C)`` of every teacher on the same samples.
        target: entropy in nats; None for the mean of the teachers' own entropies at T = 1, so that
            a single teacher stays as it is.

    Returns temperatures in [0.05, 20], the nearest bound where the target is out of reach, and 1
    for a teacher whose logits are constant.

    This rule is ours; we know of no paper that states it.
    """
    logits = [teacher.detach().double() for teacher in teachers]
    if target is None:
        target = sum(_entropy(teacher, 1.0) for teacher in logits) / len(logits)
    return tuple(_temperature(teacher, target) for teacher in logits)


def _entropy(logits: Tensor, temperature: float) -> float:
    log_p = log_probabilities(logits, temperature)
    return float(-(log_p.exp() * log_p).sum(-1).mean())


def _temperature(logits: Tensor, target: float) -> float:
    if bool((logits == logits[..., :1]).all()):
        return 1.0
    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _entropy(logits, math.exp(middle)) < target:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)
