"""A calibration made ready to predict, and how far its predictions can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from edgekd.errors import MeasurementError
from edgekd.predict.features import Floats, costs, features, group
from edgekd.predict.kernel import Kernel
from edgekd.predict.kinds import Model
from edgekd.predict.prediction import Band
from edgekd.predict.rows import LEAST_US, Overheads, Rows, drift, least_deviations, overheads, rows
from edgekd.predict.table import CalibrationTable, HeldOut

LEAST_NETWORKS = 8
FOLDS = 4
HOLD_WHOLE = np.array([30.0, 3.0, 1.0])  # ties a small calibration to kernels that simply add up
SMALL = 10  # kernels: smaller networks say nothing of those that people deploy


class Correction:
    """A table made ready for predicting; kinds are learnt once, when they first occur."""

    def __init__(self, table: CalibrationTable):
        """Raises MeasurementError when the table is too small to say anything."""
        self.table = table
        _, measured = _prepare(table)
        self._model = Model(measured, np.ones(len(measured.times), bool))
        self.roofline = self._model.roofline

    @cached_property
    def held_out(self) -> HeldOut:
        """How whole networks compare with the sums of their kernels."""
        return self.table.held_out or compare_held_out(self.table)

    @property
    def call_us(self) -> float:
        """What a call costs besides its kernels."""
        return self.held_out.call_us

    def microseconds(self, kernels: Sequence[Kernel]) -> list[float]:
        """Return the times of a network's kernels, in the order of the network."""
        found = self._model.microseconds(kernels, features(kernels), costs(kernels))
        whole = self.held_out.scale * found + self.held_out.node_us
        return [float(time) for time in np.maximum(whole, LEAST_US)]

    def unknown(self, kernels: Sequence[Kernel]) -> set[str]:
        """Return the operations that the table does not have."""
        return {kernel.op for kernel in kernels if not self._model.knows(group(kernel))}

    @cached_property
    def band(self) -> Band:
        """How far networks lay that were held out while the rest was learnt."""
        ratios = self.held_out.log_ratios
        low, high = (float(np.exp(q)) for q in np.quantile(ratios, (0.05, 0.95)))
        return Band(
            min(low, 1.0),
            max(high, 1.0),
            f"90 % of {len(ratios)} calibration networks, each predicted from others",
        )


def compare_held_out(table: CalibrationTable) -> HeldOut:
    """Predict networks from the other folds and compare the wholes.

    What the comparison finds in common is corrected: kernels overlap a little, and what a node
    costs the executor is not in its own time. Networks of under ``SMALL`` kernels are left out.
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
    counts = np.bincount(measured.network, minlength=n).astype(float)
    real = counts >= SMALL if (counts >= SMALL).sum() >= LEAST_NETWORKS else counts > 0
    sums: Floats = np.asarray(np.bincount(measured.network, times, n)[real], np.float64)
    summed = np.bincount(measured.network, measured.times, n) + found.call_us
    wholes: Floats = np.asarray(summed[real], np.float64)
    inputs: Floats = np.stack([sums, counts[real], np.ones_like(sums)], 1)
    prior = np.array([1.0, 0.0, found.call_us])
    unit: Floats = np.asarray(0.03 * wholes + 1.0, np.float64)
    scale, node_us, call_us = least_deviations(inputs, wholes, unit, prior, HOLD_WHOLE)
    call_us = max(0.0, float(call_us))
    predicted = np.maximum(scale * sums + node_us * counts[real], LEAST_US) + call_us
    ratios = np.log(wholes / predicted)
    return HeldOut(float(scale), float(node_us), call_us, tuple(round(float(r), 4) for r in ratios))


def _prepare(table: CalibrationTable) -> tuple[Overheads, Rows]:
    if len(table.networks) < LEAST_NETWORKS:
        raise MeasurementError(
            f"the calibration has {len(table.networks)} networks, too few to predict from: run "
            "edgekd targets calibrate again, it goes on where it stopped"
        )
    slow = drift(table)
    found = overheads(table.networks, slow)
    return found, rows(table.networks, slow, found)
