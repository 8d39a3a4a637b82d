"""Learned rounding: which weights go up to the next code and which go down.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020, arXiv
2004.10568, section 3.2. A weight becomes ``s * clamp(floor(w / s) + h(V), qmin, qmax)`` with a
learned ``V`` per weight; a regulariser pushes every ``h(V)`` to 0 or 1 in the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

# h stretches the sigmoid to [-0.1, 1.1] and clips it, so that 0 and 1 are reached (eq. 23).
_LOW, _HIGH = -0.1, 1.1


def soft_rounding(logits: Tensor) -> Tensor:
    """Return h(V) in [0, 1]: how far each weight is rounded up."""
    return (torch.sigmoid(logits) * (_HIGH - _LOW) + _LOW).clamp(0.0, 1.0)


def initial_logits(fractions: Tensor) -> Tensor:
    """Return V with ``h(V) == fractions``, each in [0, 1): nothing is rounded yet."""
    return torch.logit((fractions - _LOW) / (_HIGH - _LOW))


def soft_quantize(base: Tensor, logits: Tensor, scale: Tensor, qmin: int, qmax: int) -> Tensor:
    """Return the weights for V, given the codes ``base`` below them: ``floor(w / scale)``."""
    return scale * (base + soft_rounding(logits)).clamp(qmin, qmax)


def rounding_regularizer(logits: Tensor, beta: float) -> Tensor:
    """Return the mean of ``1 - |2 h - 1|^beta`` (eq. 24): 0 if all h are 0 or 1, 1 if all half.

    A large ``beta`` leaves all but the values next to 0 and 1 alone; a small one decides them.
    """
    return (1.0 - (2.0 * soft_rounding(logits) - 1.0).abs().pow(beta)).mean()


def annealed_beta(
    step: int, steps: int, *, warmup: float = 0.2, first: float = 20.0, last: float = 2.0
) -> float | None:
    """Return beta at ``step`` (from 0): linear from first to last, None during the warm-up.

    Without beta there is no regulariser: the values move to where they fit first.
    """
    begin = warmup * steps
    if step < begin:
        return None
    return last + (first - last) * (1.0 - (step - begin) / max(1.0, steps - begin))
