"""Numbers of kernels that their time is learnt from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekd.predict.kernel import Kernel

Floats = NDArray[np.float64]
Group = tuple[str, str]


def features(kernels: Sequence[Kernel]) -> Floats:
    """Return ``(kernels, features)``: logarithms of the numbers, and how vectors are filled.

    The last ones are of the whole network: the more weights and activations it has, the fewer are
    still in the caches when their turn comes.
    """
    numbers = np.array([kernel.numbers for kernel in kernels], float)
    inner, outer = (np.array([getattr(k, name) for k in kernels]) for name in ("inner", "outer"))
    fills = [size / (-(-size // step) * step) for size in (inner, outer) for step in (4, 16)]
    moved = np.array([kernel.moved for kernel in kernels], float)
    weights = numbers[:, 2].sum()
    before = np.concatenate([[0.0], numbers[:-1, 3]])  # what the kernel in front wrote
    own = [np.log(moved + 1), np.log(before + 1), np.full(len(kernels), np.log(weights + 1e4))]
    return np.concatenate([np.log1p(numbers), np.stack([*fills, *own], 1)], 1)


def costs(kernels: Sequence[Kernel]) -> Floats:
    """Return ``(kernels, terms)`` of the linear cost: launch, MACs, bytes, weights, rows."""
    return np.array(
        [
            [
                1.0,
                k.macs / 1e5,
                (k.read + k.written) / 1e4,
                k.weights / 1e4,
                k.places * max(1, k.groups if k.macs else 1) / 1e2,
                k.places * k.inner * k.window / 1e4,
            ]
            for k in kernels
        ]
    )


def group(kernel: Kernel) -> Group:
    """Return what is learnt together."""
    return kernel.kind, kernel.arithmetic
