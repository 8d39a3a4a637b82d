"""From measured networks to rows to learn from: what every kernel took by itself.

The profiler slows every node down. Networks were timed with and without it, so the sums say by how
much, and each network's nodes are scaled to add up to the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.predict.features import costs, features
from edgekd.predict.kernel import Kernel
from edgekd.predict.table import CalibrationTable, Network

Floats = NDArray[np.float64]

LEAST_US = 0.15  # no node costs less: the executor's own step
HOLD = 3.0  # how much a kind's constant is tied to the usual one, in rows


@dataclass(frozen=True)
class Overheads:
    """``node_us`` is what ONNX Runtime's profiler adds to a node of each kind.

    ``usual_us`` is that of other kinds, ``call_us`` is what a call costs besides its nodes. All
    come from comparing sums of nodes with whole networks.
    """

    node_us: Mapping[str, float]
    usual_us: float
    call_us: float

    def of(self, kernels: Sequence[Kernel]) -> Floats:
        """Return what the profiler adds to each kernel."""
        return np.array([self.node_us.get(kernel.kind, self.usual_us) for kernel in kernels])


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
    """Return how slow the machine was at each network, by the reference model timed beside it."""
    reference = np.array([network.reference_us for network in table.networks])
    return np.asarray(reference / table.reference_us)


def overheads(networks: Sequence[Network], slow: Floats) -> Overheads:
    """Fit sums of nodes - whole networks = what the profiler added - what the call took.

    In parts of each network's time, by least absolute deviations, so that a network which was
    disturbed counts little. First one constant for all nodes, then one for each kind, held near it.
    """
    kinds = sorted({kernel.kind for network in networks for kernel in network.kernels})
    place = {kind: index for index, kind in enumerate(kinds)}
    counts = np.zeros((len(networks), len(kinds)))
    for row, network in enumerate(networks):
        for kernel in network.kernels:
            counts[row, place[kernel.kind]] += 1
    totals = np.array([network.total_us for network in networks]) / slow
    added = np.array([sum(network.node_us) for network in networks]) / slow - totals
    unit = totals * 0.03 + 1.0
    call = -np.ones((len(networks), 1))
    every = np.concatenate([counts.sum(1, keepdims=True), call], 1)
    usual, _ = least_deviations(every, added, unit, np.zeros(2), np.zeros(2))
    prior = np.append(np.full(len(kinds), usual), 0.0)
    hold = np.append(np.full(len(kinds), HOLD), 0.0)
    *found, call_us = least_deviations(np.concatenate([counts, call], 1), added, unit, prior, hold)
    by_kind = {kind: max(0.0, float(us)) for kind, us in zip(kinds, found, strict=True)}
    return Overheads(by_kind, max(0.0, float(usual)), max(0.0, float(call_us)))


def least_deviations(
    inputs: Floats, target: Floats, unit: Floats, prior: Floats, hold: Floats
) -> Floats:
    """Return coefficients, by iteratively reweighted least squares; ``hold`` ties to ``prior``."""
    weights = 1 / unit
    for _ in range(30):
        rows_ = np.concatenate([inputs * weights[:, None], np.diag(hold)])
        wanted = np.concatenate([target * weights, prior * hold])
        found = np.linalg.lstsq(rows_, wanted, rcond=None)[0]
        error = np.abs(target - inputs @ found) / unit
        weights = 1 / unit / np.sqrt(np.maximum(error, 0.3))
    return np.asarray(found)


def clean(network: Network, slow: float, found: Overheads) -> Floats:
    """Return the times of a network's kernels without the profiler, adding up to its total."""
    times = np.maximum(np.array(network.node_us) / slow - found.of(network.kernels), LEAST_US)
    rest = max(network.total_us / slow - found.call_us, LEAST_US * len(times))
    return np.asarray(times * np.clip(rest / times.sum(), 0.6, 1.6))


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
