"""The quantizer modules that stand in a program while it is calibrated and trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekd.algorithms.fake_quant import fake_quantize, lsq_gradient_scale
from edgekd.algorithms.weight_steps import clipped_steps, group_inputs, widest_steps


@dataclass(frozen=True)
class WeightFormat:
    """How a weight is stored: symmetric codes of ``bits`` bits, the smallest code left out.

    One step per output channel, or with ``group_size`` one per so many inputs of each.
    """

    bits: int = 8
    group_size: int | None = None

    @property
    def qmax(self) -> int:
        """Largest code: 127 of 8 bits, 7 of 4."""
        return int(2 ** (self.bits - 1) - 1)


INT8 = WeightFormat()


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
            factor = lsq_gradient_scale(x, self.log_scale.numel(), max(hi, -lo))
            scale = scale.detach() * (1 - factor) + scale * factor  # same value, scaled gradient
        return fake_quantize(x, scale, lo, hi)


class WeightQuantizer(Quantizer):
    """Symmetric codes, one step per output channel (axis 0) or per group of inputs (axis 1).

    At 7 and 8 bits the largest magnitude sets the step. At fewer, clipping it makes the other
    weights more exact, and the step with the least squared error is taken.

    Args:
        weight: what will be quantized, ``(O, I, ..)``; ``(O, I)`` for a format with groups.
        format: bits and groups.
    """

    def __init__(self, weight: Tensor, format: WeightFormat = INT8):
        size, find = format.group_size, widest_steps if format.bits >= 7 else clipped_steps
        rows = weight.detach().flatten(1) if size is None else group_inputs(weight.detach(), size)
        steps = find(rows, format.qmax)
        shape = [len(weight), *[1] * (weight.ndim - 1)] if size is None else [len(weight), -1]
        super().__init__(steps.reshape(shape), 0, -format.qmax, format.qmax)
        self.format, self.inputs = format, weight.shape[1]

    def scale(self) -> Tensor:
        """Return the steps in a shape that broadcasts against the weight."""
        steps, size = super().scale(), self.format.group_size
        return steps if size is None else steps.repeat_interleave(size, 1)[:, : self.inputs]

    def codes(self, weight: Tensor) -> Tensor:
        """Return the codes of ``weight``, as int8 whatever their number of bits."""
        codes = torch.round(weight / self.scale()).clamp(self.qmin, self.qmax)
        return codes.to(torch.int8)
