"""Masks that grow while a network trains, and stay as they are from then on."""

from __future__ import annotations

import torch
from torch import fx

from edgekd.algorithms.cubic_schedule import cubic_sparsity
from edgekd.sparse.masking import apply_masks, stored
from edgekd.sparse.patterns import Masks, Pattern, magnitude_masks

EVENTS = 20  # times at which masks grow, evenly over the ramp


class GradualMasks:
    """Called behind every optimiser step; the sparsity rises over the first ``ramp_steps`` steps.

    At each event the masks follow from the magnitudes of the weights as they are then. What has
    been set to zero stays zero: it is the smallest of all at the next event. With ``ramp_steps`` of
    0 the masks are not changed at all. ``masks`` are changed in place.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        masks: Masks,
        pattern: Pattern,
        ramp_steps: int,
        *,
        device: torch.device,
    ):
        self.module, self.pattern, self.ramp_steps = module, pattern, ramp_steps
        self.masks = {name: mask.to(device) for name, mask in masks.items()}
        self.every = max(1, ramp_steps // EVENTS)
        self.complete = ramp_steps == 0

    def __call__(self, step: int) -> None:
        """Let the masks grow if it is time, and set what they say to zero; steps count from 1."""
        apply_masks(self.module, self.masks)
        if not self.complete and (step % self.every == 0 or step >= self.ramp_steps):
            self._grow(step / self.ramp_steps)
            self.complete = step >= self.ramp_steps
            apply_masks(self.module, self.masks)

    def _grow(self, progress: float) -> None:
        weights = stored(self.module, self.masks)
        sparsity = cubic_sparsity(progress, self.pattern.sparsity)
        for name, mask in magnitude_masks(self.pattern, weights, sparsity).items():
            self.masks[name].copy_(mask)
