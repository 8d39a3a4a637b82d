"""Early exits on recorded samples: who leaves where, at what loss and what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Thresholds: TypeAlias = tuple[float | None, ...]  # one for each exit; None: nothing leaves there


@dataclass(frozen=True)
class CascadeSamples:
    """What was recorded of n samples at e exits, all of which computed everything.

    ``confidences`` ``(n, e)``: how sure each exit is, in [0, 1]. ``losses`` ``(n, e)`` in [-1, 1]:
    what it costs to leave there instead of going to the end, such as right(end) - right(exit).
    ``costs`` ``(e + 1,)``: the cost of a sample (milliseconds) that leaves at each exit, and of one
    that goes to the end. They never fall.

    Raises ValueError for what does not fit together.
    """

    confidences: NDArray[np.float64]
    losses: NDArray[np.float64]
    costs: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("confidences", "losses", "costs"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        if self.confidences.ndim != 2 or self.confidences.shape != self.losses.shape:
            shapes = f"{self.confidences.shape} and {self.losses.shape}"
            raise ValueError(f"confidences and losses need the same shape (n, e), not {shapes}")
        if not len(self.confidences):
            raise ValueError("there are no samples")
        if self.costs.shape != (self.exits + 1,):
            raise ValueError(f"{self.exits} exits have {self.exits + 1} costs, not {self.costs}")
        if not all(np.isfinite(a).all() for a in (self.confidences, self.losses, self.costs)):
            raise ValueError("confidences, losses and costs have to be finite")
        if (np.abs(self.losses) > 1).any() or (np.diff(self.costs) < 0).any():
            raise ValueError("losses lie in [-1, 1], and costs do not fall from exit to exit")

    @property
    def exits(self) -> int:
        """Return e, the number of exits."""
        return int(self.confidences.shape[1])

    def take(self, indices: NDArray[np.intp]) -> CascadeSamples:
        """Return the samples at ``indices``, in their order."""
        return CascadeSamples(self.confidences[indices], self.losses[indices], self.costs)

    def at(self, exits: Sequence[int], costs: ArrayLike) -> CascadeSamples:
        """Return the same samples with these exits alone, at the costs that they have then."""
        kept = list(exits)
        new = np.asarray(costs, np.float64)
        return CascadeSamples(self.confidences[:, kept], self.losses[:, kept], new)


@dataclass(frozen=True)
class ExitPoint:
    """Thresholds, and what they come to on some samples.

    ``mean_loss`` is a share (0.005 is half a point), ``cost`` the mean in the unit of the costs,
    ``shares`` how much of the samples leaves at each exit and, last, goes to the end.
    """

    thresholds: Thresholds
    mean_loss: float
    cost: float
    shares: tuple[float, ...]


def leave_at(confidences: NDArray[np.floating], thresholds: Thresholds) -> NDArray[np.intp]:
    """Return for each of ``(n, e)`` the first exit with confidence > threshold, else e."""
    limits = np.array([np.inf if t is None else t for t in thresholds], np.float64)
    leaves = confidences > limits
    first: NDArray[np.intp] = np.pad(leaves, ((0, 0), (0, 1)), constant_values=True).argmax(axis=1)
    return first


def losses_of(samples: CascadeSamples, thresholds: Thresholds) -> NDArray[np.float64]:
    """Return the loss ``(n,)`` of each sample where it leaves; 0 if it goes to the end."""
    with_end = np.pad(samples.losses, ((0, 0), (0, 1)))
    left: NDArray[np.float64] = np.take_along_axis(
        with_end, leave_at(samples.confidences, thresholds)[:, None], axis=1
    )[:, 0]
    return left


def outcome(samples: CascadeSamples, thresholds: Thresholds) -> ExitPoint:
    """Return mean loss, mean cost and share by exit of these samples at these thresholds."""
    counts = np.bincount(leave_at(samples.confidences, thresholds), minlength=samples.exits + 1)
    shares = counts / len(samples.losses)
    return ExitPoint(
        thresholds,
        float(losses_of(samples, thresholds).mean()),
        float(shares @ samples.costs),
        tuple(float(share) for share in shares),
    )
