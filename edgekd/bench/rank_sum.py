"""How far two groups of values that were not taken in pairs lie apart.

Wilcoxon's rank-sum test, inverted (Hollander, Wolfe and Chicken, "Nonparametric Statistical
Methods", 3rd ed., 2014, sections 4.1 to 4.3), with the normal approximation of its distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from edgekd.bench.signed_rank import Bounds


def shift_bounds(first: Sequence[float], second: Sequence[float], error: float) -> Bounds:
    """Return how much larger ``second`` is, with bounds that are each wrong with ``error``.

    It holds for independent values of one shape. Raises ValueError when a group is empty.
    """
    if not first or not second:
        raise ValueError("both groups need values")
    differences = np.sort(np.subtract.outer(np.asarray(second), np.asarray(first)).ravel())
    pairs = len(differences)
    spread = math.sqrt(pairs * (len(first) + len(second) + 1) / 12)
    rank = math.floor(pairs / 2 - NormalDist().inv_cdf(1 - error) * spread)
    centre = float(np.median(differences))
    if rank < 1:
        return Bounds(centre, -math.inf, math.inf)
    return Bounds(centre, float(differences[rank - 1]), float(differences[-rank]))
