"""The quantizer modules that stand in a program while it is calibrated and trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.algorithms.fake_quant import fake_quantize, lsq_gradient_scale

_TINY = 1e-30  # below this, products of two float32 steps underflow


class Quantizer(nn.Module):
    """Fake quantization with a fixed zero point and a step size that can be learned.

    The step is stored as its logarithm: it stays positive, and an optimiser step changes it by a
    ratio, whatever its size (Jain et al., "Trained Quantization Thresholds", MLSys 2020, arXiv
    1903.08066, section 5). Its gradient is LSQ's, scaled as in LSQ section 2.2.

    Args:
        scale: initial step, shape ``(1,)`` or, per channel, ``(C, 1, ..)``.
        zero_point: integer code of the value zero.
        qmin, qmax: smallest and largest code.
        max_scale: upper limit of the step, for ranges that a clamp bounds.
    """

    log_scale: Tensor

    def __init__(
        self,
        scale: Tensor,
        zero_point: int,
        qmin: int,
        qmax: int,
        *,
        max_scale: float | None = None,
    ):
        super().__init__()
        self.log_scale = nn.Parameter(scale.log(), requires_grad=False)
        self.zero_point, self.qmin, self.qmax = zero_point, qmin, qmax
        self.max_scale = max_scale
        self.learnable = True

    def scale(self) -> Tensor:
        """Return the step size."""
        scale = self.log_scale.exp()
        return scale if self.max_scale is None else scale.clamp_max(self.max_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` rounded to the grid."""
        lo, hi = self.qmin - self.zero_point, self.qmax - self.zero_point
        scale = self.scale()
        if self.log_scale.requires_grad:
            factor = lsq_gradient_scale(x, scale.numel(), max(hi, -lo))
            scale = scale.detach() * (1 - factor) + scale * factor  # same value, scaled gradient
        return fake_quantize(x, scale, lo, hi)


class WeightQuantizer(Quantizer):
    """Symmetric int8, one step per output channel (axis 0)."""

    def __init__(self, weight: Tensor):
        largest = weight.detach().abs().flatten(1).amax(1)
        # A channel of zeros has no range: any step represents it, but its bias is stored in
        # steps of (input step * weight step), so it takes the one of the widest channel.
        widest = largest.max() if largest.max() > _TINY else torch.ones(())
        step = torch.where(largest > _TINY, largest, widest) / 127.0
        super().__init__(step.reshape(-1, *[1] * (weight.ndim - 1)), 0, -127, 127)

    def codes(self, weight: Tensor) -> Tensor:
        """Return the int8 codes of ``weight``."""
        codes = torch.round(weight / self.scale()).clamp(self.qmin, self.qmax)
        return codes.to(torch.int8)
