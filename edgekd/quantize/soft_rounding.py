"""The module that stands in for a weight quantizer while its rounding is learned."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgekd.algorithms.rounding import initial_logits, soft_quantize
from edgekd.quantize.fake import WeightQuantizer


class SoftRounding(nn.Module):
    """Gives ``weight`` on the grid of ``quantizer``, rounded as far as ``logits`` say.

    At first no weight is rounded at all. ``harden`` decides, and moves the weight itself onto its
    codes: rounding to nearest, as everything later does it, then finds exactly these. A weight of
    exactly zero stays zero, as a pattern of zeros needs it.
    """

    def __init__(self, quantizer: WeightQuantizer, weight: Tensor):
        super().__init__()
        self.weight, self.qmin, self.qmax = weight.detach(), quantizer.qmin, quantizer.qmax
        self.scale = quantizer.scale().detach()
        ratio = self.weight / self.scale
        self.base, self.nonzero = ratio.floor(), self.weight != 0
        self.logits = nn.Parameter(initial_logits(ratio - self.base))

    def forward(self, _: Tensor) -> Tensor:
        """Return the softly rounded weight; the argument is the weight as it was."""
        found = soft_quantize(self.base, self.logits, self.scale, self.qmin, self.qmax)
        return found * self.nonzero

    @torch.no_grad()
    def codes(self) -> Tensor:
        """Return the integers, as floats, that the logits stand for."""
        return (self.base + (self.logits > 0)).clamp(self.qmin, self.qmax) * self.nonzero

    @torch.no_grad()
    def harden(self) -> Callable[[], object]:
        """Set the weight to ``scale * codes`` in place; return a function that takes it back."""
        before = self.weight.clone()
        self.weight.copy_(self.codes() * self.scale)
        return lambda: self.weight.copy_(before)
