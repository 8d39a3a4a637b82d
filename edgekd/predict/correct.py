"""Learn from a calibration how far kernels stay below the roofline.

As in nn-Meter (Zhang et al., MobiSys 2021) a regression by kind of kernel, whose times add up to a
model's. Two steps for each kind: a cost that is linear in what there is to do, with no negative
term, so that it can be trusted beyond the measured sizes; then what is left, learnt as a factor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from edgekd.predict.kernel import Kernel
from edgekd.predict.table import CalibrationTable, Network

Floats = NDArray[np.float64]
Group = tuple[str, str]

LEAST_US = 0.15  # no node costs less: the executor's own step
LEARNABLE, LINEAR = 40, 8  # rows of a group that a regression, a linear cost needs at least


@dataclass(frozen=True)
class Overheads:
    """``node_us`` is what ONNX Runtime's profiler adds to a node, ``call_us`` a call to its nodes.

    Both come from comparing sums of nodes with whole networks.
    """

    node_us: float
    call_us: float


@dataclass(frozen=True)
class Rows:
    """One entry a measured kernel: its features, cleaned microseconds, and its network's index."""

    kernels: list[Kernel]
    features: Floats
    costs: Floats
    times: Floats
    shares: Floats
    network: NDArray[np.int64]


def drift(table: CalibrationTable) -> Floats:
    """Return how slow the machine was at each network: a running median of the reference."""
    reference = np.array([network.reference_us for network in table.networks])
    n = len(reference)
    near = [np.median(reference[max(0, i - 4) : i + 5]) for i in range(n)]
    return np.asarray(near) / np.median(reference)


def overheads(networks: Sequence[Network], slow: Floats) -> Overheads:
    """Fit the two constants by least absolute deviations, in parts of each network's time."""
    sums = np.array([sum(network.node_us) for network in networks]) / slow
    totals = np.array([network.total_us for network in networks]) / slow
    counts = np.array([len(network.kernels) for network in networks], float)
    inputs = np.stack([counts, -np.ones_like(counts)], 1)
    unit = totals * 0.03 + 1.0
    weights = 1 / unit
    for _ in range(30):  # iteratively reweighted least squares
        found = np.linalg.lstsq(
            inputs * weights[:, None], (sums - totals) * weights, rcond=None
        )[0]
        error = np.abs(sums - totals - inputs @ found) / unit
        weights = 1 / unit / np.sqrt(np.maximum(error, 0.3))
    return Overheads(max(0.0, float(found[0])), max(0.0, float(found[1])))


def clean(network: Network, slow: float, found: Overheads) -> Floats:
    """Return the times of a network's kernels without the profiler, adding up to its total."""
    times = np.maximum(np.array(network.node_us) / slow - found.node_us, LEAST_US)
    rest = max(network.total_us / slow - found.call_us, LEAST_US * len(times))
    return np.asarray(times * np.clip(rest / times.sum(), 0.6, 1.6))


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


def rows(networks: Sequence[Network], slow: Floats, found: Overheads) -> Rows:
    """Return every measured kernel."""
    times = [clean(n, s, found) for n, s in zip(networks, slow, strict=True)]
    return Rows(
        kernels=[kernel for network in networks for kernel in network.kernels],
        features=np.concatenate([features(network.kernels) for network in networks]),
        costs=np.concatenate([costs(network.kernels) for network in networks]),
        times=np.concatenate(times),
        shares=np.concatenate([t / t.sum() for t in times]),
        network=np.repeat(np.arange(len(networks)), [len(n.kernels) for n in networks]),
    )


class KindModel:
    """The times of one kind of kernel."""

    def __init__(self, linear: Any, learners: list[Any], largest: float):
        self._linear, self._learners, self._largest = linear, learners, largest

    def microseconds(self, inputs: Floats, terms: Floats) -> Floats:
        """Return the times of kernels with these features and costs."""
        base = np.log(np.maximum(self._linear.predict(terms), LEAST_US))
        if not self._learners:
            return np.asarray(np.exp(base))
        wide = np.concatenate([inputs, base[:, None]], 1)
        factor = np.mean([learner.predict(wide) for learner in self._learners], 0)
        return np.asarray(np.exp(base + np.clip(factor, -self._largest, self._largest)))


def fit_kind(inputs: Floats, terms: Floats, times: Floats, shares: Floats, which="gb,et") -> KindModel:
    """Fit one kind; relative errors count, more so where a kernel is much of its network."""
    weights = 0.05 + np.minimum(shares, 0.3)
    linear = LinearRegression(positive=True, fit_intercept=False)
    linear.fit(terms, times, sample_weight=weights / times**2)
    if len(times) < LEARNABLE:
        return KindModel(linear, [], 0.0)
    base = np.log(np.maximum(linear.predict(terms), LEAST_US))
    wide = np.concatenate([inputs, base[:, None]], 1)
    left = np.log(times) - base
    learners: list[Any] = []
    if 'gb' in which: learners.append(HistGradientBoostingRegressor(
            max_iter=200, learning_rate=0.07, max_leaf_nodes=12, min_samples_leaf=6, random_state=0, max_features=.5
        ))
    if 'et' in which: learners.append(ExtraTreesRegressor(100, min_samples_leaf=2, max_features=0.7, random_state=0))
    for learner in learners:
        learner.fit(wide, left, sample_weight=weights)
    return KindModel(linear, learners, float(np.abs(left).max()))
