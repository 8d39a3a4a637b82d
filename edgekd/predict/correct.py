"""Learn from a calibration how far kernels stay below the roofline.

As in nn-Meter (Zhang et al., MobiSys 2021) a regression by kind of kernel, whose times add up to a
model's. Two steps for each kind: a cost that is linear in what there is to do, with no negative
term, so that it can be trusted beyond the measured sizes; then what is left, learnt as a factor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import LinearRegression

from edgekd.errors import MeasurementError
from edgekd.predict.kernel import Kernel
from edgekd.predict.prediction import Band
from edgekd.predict.roofline import from_times
from edgekd.predict.table import CalibrationTable, Network

Floats = NDArray[np.float64]
Group = tuple[str, str]

LEAST_US = 0.15  # no node costs less: the executor's own step
LEARNABLE, LINEAR = 30, 8  # rows of a group that a regression, a linear cost needs at least
LEAST_NETWORKS = 8
TREES = 60
FOLDS = 4
SMALL = 10  # kernels: smaller networks say nothing of those that people deploy
MOST = 4000  # rows of a group: more make learning slow and little better


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
    """The times of one kind of kernel; raises nothing, extrapolates by the linear cost."""

    def __init__(self, inputs: Floats, terms: Floats, times: Floats, shares: Floats):
        """Fit rows; relative errors count, more so where a kernel is much of its network."""
        weights = 0.05 + np.minimum(shares, 0.3)
        self._linear = LinearRegression(positive=True, fit_intercept=False)
        self._linear.fit(terms, times, sample_weight=weights / times**2)
        self._learner: ExtraTreesRegressor | None = None
        if len(times) < LEARNABLE:
            return
        base = self._base(terms)
        self._learner = ExtraTreesRegressor(TREES, min_samples_leaf=2, max_features=0.7, random_state=0)
        self._learner.fit(_joined(inputs, base), np.log(times) - base, sample_weight=weights)

    def microseconds(self, inputs: Floats, terms: Floats) -> Floats:
        """Return the times of kernels with these features and costs."""
        base = self._base(terms)
        if self._learner is None:
            return np.asarray(np.exp(base))
        return np.asarray(np.exp(base + self._learner.predict(_joined(inputs, base))))

    def _base(self, terms: Floats) -> Floats:
        return np.asarray(np.log(np.maximum(self._linear.predict(terms), LEAST_US)))


def _joined(inputs: Floats, base: Floats) -> Floats:
    return np.concatenate([inputs, base[:, None]], 1)


class Model:
    """The kinds of some networks; each is fitted when it is first asked for."""

    def __init__(self, measured: Rows, chosen: NDArray[np.bool_]):
        """Learn from the ``chosen`` rows."""
        self._measured = measured
        self._groups: dict[Group, list[int]] = defaultdict(list)
        for index in np.flatnonzero(chosen):
            self._groups[group(measured.kernels[index])].append(index)
        self._kinds: dict[Group, KindModel] = {}
        known = [measured.kernels[index] for index in np.flatnonzero(chosen)]
        self.roofline = from_times(known, measured.times[chosen])

    def knows(self, key: Group) -> bool:
        """Tell whether a kind was measured often enough."""
        return len(self._groups.get(key, ())) >= LINEAR

    def microseconds(self, kernels: Sequence[Kernel], inputs: Floats, terms: Floats) -> Floats:
        """Return the times of kernels; of unknown kinds the roofline's."""
        times = np.array([self.roofline.microseconds(kernel) for kernel in kernels])
        places: dict[Group, list[int]] = defaultdict(list)
        for index, kernel in enumerate(kernels):
            places[group(kernel)].append(index)
        for key, mine in places.items():
            if self.knows(key):
                times[mine] = self._kind(key).microseconds(inputs[mine], terms[mine])
        return times

    def _kind(self, key: Group) -> KindModel:
        if key not in self._kinds:
            index = np.array(self._groups[key])
            if len(index) > MOST:
                index = np.random.default_rng(0).choice(index, MOST, replace=False)
            found = self._measured
            self._kinds[key] = KindModel(
                found.features[index], found.costs[index], found.times[index], found.shares[index]
            )
        return self._kinds[key]


class Correction:
    """A table made ready for predicting; kinds are learnt once, when they first occur."""

    def __init__(self, table: CalibrationTable):
        """Raises MeasurementError when the table is too small to say anything."""
        self.table = table
        self.overheads, measured = _prepare(table)
        self._model = Model(measured, np.ones(len(measured.times), bool))
        self.roofline = self._model.roofline

    def microseconds(self, kernels: Sequence[Kernel]) -> list[float]:
        """Return the times of a network's kernels, in the order of the network."""
        found = self._model.microseconds(kernels, features(kernels), costs(kernels))
        return [float(time) for time in found]

    def unknown(self, kernels: Sequence[Kernel]) -> set[str]:
        """Return the operations that the table does not have."""
        return {kernel.op for kernel in kernels if not self._model.knows(group(kernel))}

    @cached_property
    def band(self) -> Band:
        """How far networks lay that were held out while the rest was learnt."""
        ratios = self.table.held_out or held_out(self.table)
        low, high = (float(np.exp(q)) for q in np.quantile(ratios, (0.05, 0.95)))
        return Band(
            min(low, 1.0),
            max(high, 1.0),
            f"90 % of {len(ratios)} calibration networks, each predicted from others",
        )


def held_out(table: CalibrationTable) -> tuple[float, ...]:
    """Return log(measured / predicted) of networks, each predicted from the other folds.

    Networks of under ``SMALL`` kernels are left out.
    """
    found, measured = _prepare(table)
    fold = np.arange(len(table.networks)) % FOLDS
    times = np.zeros(len(measured.times))
    for number in range(FOLDS):
        out = fold[measured.network] == number
        model = Model(measured, ~out)
        kernels = [measured.kernels[index] for index in np.flatnonzero(out)]
        times[out] = model.microseconds(kernels, measured.features[out], measured.costs[out])
    n = len(table.networks)
    predicted = np.bincount(measured.network, times, n) + found.call_us
    true = np.bincount(measured.network, measured.times, n) + found.call_us
    real = np.bincount(measured.network, minlength=n) >= SMALL
    return tuple(round(float(r), 4) for r in np.log(true / predicted)[real])


def _prepare(table: CalibrationTable) -> tuple[Overheads, Rows]:
    if len(table.networks) < LEAST_NETWORKS:
        raise MeasurementError(
            f"the calibration has {len(table.networks)} networks, too few to predict from: run "
            "edgekd targets calibrate again, it goes on where it stopped"
        )
    slow = drift(table)
    found = overheads(table.networks, slow)
    return found, rows(table.networks, slow, found)
