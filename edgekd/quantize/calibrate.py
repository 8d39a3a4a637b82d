"""Calibration: run samples through a program and note the range of every tensor of interest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgekd.algorithms.ranges import Method, choose_range
from edgekd.errors import StageError
from edgekd.model.user_code import first_line
from edgekd.quantize.placement import Scheme

BINS = 2048
Inputs = tuple[Tensor, ...]


def calibrate(
    module: fx.GraphModule,
    names: Iterable[str],
    batches: Callable[[], Iterable[Inputs]],
    scheme: Scheme,
    method: Method,
) -> dict[str, tuple[float, float]]:
    """Return the range (lo, hi) of the output of every node in ``names``.

    Two passes over the samples: the first finds the extremes, the second fills a histogram of
    2,048 bins between them, from which ``method`` chooses. ``batches()`` starts a pass.

    Raises StageError if a tensor takes a value that is not finite, naming the first such node, or
    the model cannot take a sample.
    """
    extremes = _Extremes(module, set(names))
    for inputs in batches():
        try:
            extremes.run(*inputs)
        except StageError:
            raise
        except (IndexError, RuntimeError) as error:
            raise StageError(
                f"calibration: the model fails on a calibration sample: {first_line(error)}; "
                "check that the data fits the model"
            ) from error
    histograms = _Histograms(module, extremes.found)
    if method != "minmax":
        for inputs in batches():
            histograms.run(*inputs)
    levels = scheme.qmax - scheme.qmin + 1
    return {
        name: (min(lo, 0.0), max(hi, 0.0))
        if method == "minmax" or lo == hi
        else choose_range(
            *histograms.of(name), method=method, levels=levels, symmetric=scheme.symmetric
        )
        for name, (lo, hi) in extremes.found.items()
    }


class _Extremes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, names: set[str]):
        super().__init__(module)
        self.names = names
        self.found: dict[str, tuple[float, float]] = {}

    @torch.no_grad()
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.names:
            low, high = (float(v) for v in torch.aminmax(value))
            if not (np.isfinite(low) and np.isfinite(high)):
                raise StageError(
                    f"calibration: the output of {n.name} is not finite (NaN or infinite); check "
                    "the model's weights and the data's normalisation"
                )
            before = self.found.get(n.name, (low, high))
            self.found[n.name] = (min(low, before[0]), max(high, before[1]))
        return value


class _Histograms(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, extremes: dict[str, tuple[float, float]]):
        super().__init__(module)
        self.extremes = extremes
        self.counts = {name: torch.zeros(BINS, dtype=torch.float64) for name in extremes}

    @torch.no_grad()
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.counts:
            low, high = self.extremes[n.name]
            if high > low:
                counts = torch.histc(value.float(), BINS, low, high)
                self.counts[n.name] += counts.double()
        return value

    def of(self, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        low, high = self.extremes[name]
        return self.counts[name].numpy(), np.linspace(low, high, BINS + 1)
