"""Simulated early exits: samples of a population whose truth can be had from a larger draw."""

from __future__ import annotations

import numpy as np

from edgekd.algorithms.exit_thresholds import CascadeSamples


def draw(count: int, seed: int, exits: int = 2, digits: int | None = None) -> CascadeSamples:
    """Return samples that are easier or harder; hard ones change at early exits, mostly to wrong.

    Confidence falls with hardness, but not surely, and deeper exits are better. Costs are 1, 2, ...
    ``digits``: round the confidences, so that there are ties.
    """
    rng = np.random.default_rng(seed)
    hard = rng.random(count)
    end = rng.random(count) < 1 - 0.25 * hard**2
    confidences, losses = np.empty((2, count, exits))
    for exit_ in range(exits):
        depth = (exit_ + 1) / exits
        sure = np.clip(1 - hard * (1 - 0.6 * depth) + 0.15 * rng.normal(size=count), 0.1, 1)
        changes = rng.random(count) < 0.5 * (1 - sure) ** 1.5
        right = np.where(changes, rng.random(count) < 0.3, end)
        confidences[:, exit_] = sure if digits is None else sure.round(digits)
        losses[:, exit_] = end.astype(float) - right
    return CascadeSamples(confidences, losses, np.arange(1.0, exits + 2))
