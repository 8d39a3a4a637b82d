"""A calibration made ready to predict, and how far its predictions can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from edgekd.errors import MeasurementError
from edgekd.predict.features import costs, features, group
from edgekd.predict.kernel import Kernel
from edgekd.predict.kinds import Model
from edgekd.predict.prediction import Band
from edgekd.predict.rows import Overheads, Rows, drift, overheads, rows
from edgekd.predict.table import CalibrationTable

LEAST_NETWORKS = 8
FOLDS = 4
SMALL = 10  # kernels: smaller networks say nothing of those that people deploy


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
