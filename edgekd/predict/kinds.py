"""Learn the time of each kind of kernel.

As in nn-Meter (Zhang et al., MobiSys 2021, section 4) a regression by kind, whose times add up to a
model's. Two steps: a cost that is linear in what there is to do, with no negative term, so that it
can be trusted beyond the measured sizes; then what is left, learnt as a factor, by the mean of
randomised trees (Geurts et al., Machine Learning 63, 2006) and a Gaussian process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern
from sklearn.linear_model import LinearRegression

from edgekd.predict.features import Floats, Group, group
from edgekd.predict.kernel import Kernel
from edgekd.predict.roofline import from_times
from edgekd.predict.rows import LEAST_US, Rows

LEARNABLE, LINEAR = 30, 8  # rows of a group that a regression, a linear cost needs at least
TREES = 50
MOST_SMOOTH = 1500
MOST = 4000  # rows of a group: more make learning slow and little better


class KindModel:
    """The times of one kind of kernel; raises nothing, extrapolates by the linear cost."""

    def __init__(self, inputs: Floats, terms: Floats, times: Floats, shares: Floats):
        """Fit rows; relative errors count, more so where a kernel is much of its network."""
        weights = 0.05 + np.minimum(shares, 0.3)
        self._linear = LinearRegression(positive=True, fit_intercept=False)
        self._linear.fit(terms, times, sample_weight=weights / times**2)
        self._learns = False
        if len(times) < LEARNABLE:
            return
        base = self._base(terms)
        self._trees = ExtraTreesRegressor(TREES, min_samples_leaf=2, random_state=0)
        self._smooth = Smooth()
        for learner in (self._trees, self._smooth):
            learner.fit(_joined(inputs, base), np.log(times) - base, sample_weight=weights)
        self._learns = True

    def microseconds(self, inputs: Floats, terms: Floats) -> Floats:
        """Return the times of kernels with these features and costs."""
        base = self._base(terms)
        if not self._learns:
            return np.asarray(np.exp(base))
        wide = _joined(inputs, base)
        return np.asarray(
            np.exp(base + (self._trees.predict(wide) + self._smooth.predict(wide)) / 2)
        )

    def _base(self, terms: Floats) -> Floats:
        return np.asarray(np.log(np.maximum(self._linear.predict(terms), LEAST_US)))


class Smooth:
    """A Gaussian process over scaled features; back to the mean far from what was measured."""

    def fit(self, inputs: Floats, target: Floats, sample_weight: Floats) -> None:
        """Fit at most ``MOST_SMOOTH`` rows: the effort grows with their cube."""
        chosen = np.arange(len(target))
        if len(target) > MOST_SMOOTH:
            share = sample_weight / sample_weight.sum()
            chosen = np.random.default_rng(0).choice(chosen, MOST_SMOOTH, replace=False, p=share)
        inputs, target, weights = inputs[chosen], target[chosen], sample_weight[chosen]
        spread = inputs.std(0)
        self._used = spread > 1e-6
        self._centre, self._spread = inputs[:, self._used].mean(0), spread[self._used]
        scaled = self._scaled(inputs)
        self._low, self._high = scaled.min(0) - 1, scaled.max(0) + 1
        self._mean = float(np.average(target, weights=weights))
        wide = 2 * np.sqrt(max(1, scaled.shape[1]))  # typical distance of two rows
        kernel = ConstantKernel(target.var() + 1e-3) * Matern(length_scale=wide, nu=1.5)
        noise = 0.01 * np.sqrt(0.3 / weights)
        self._process = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None)
        self._process.fit(scaled, target - self._mean)

    def predict(self, inputs: Floats) -> Floats:
        """Return the predicted target of rows."""
        scaled = np.clip(self._scaled(inputs), self._low, self._high)
        return np.asarray(self._mean + self._process.predict(scaled))

    def _scaled(self, inputs: Floats) -> Floats:
        return np.asarray((inputs[:, self._used] - self._centre) / self._spread)


def _joined(inputs: Floats, base: Floats) -> Floats:
    return np.concatenate([inputs, base[:, None]], 1)


class Model:
    """The kinds of some networks; each is fitted when it is first asked for."""

    def __init__(self, measured: Rows, chosen: NDArray[np.bool_]):
        """Learn from the ``chosen`` rows."""
        self._measured = measured
        self._groups: dict[Group, list[int]] = defaultdict(list)
        for index in np.flatnonzero(chosen):
            self._groups[group(measured.kernels[index])].append(int(index))
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
