"""What every exit says of samples that trained nothing, on the deployed numerics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.algorithms.confidence import ConfidenceKind, confidence
from edgekd.algorithms.exit_thresholds import CascadeSamples
from edgekd.algorithms.temperature import fit_temperature
from edgekd.export.parity import onnx_predictor, predict_all
from edgekd.job import Job
from edgekd.progress import Progress
from edgekd.spec import ModelSpec
from edgekd.steps import EXITS_HERE, Step


@dataclass(frozen=True)
class Recorded:
    """The logits of n samples: ``exits`` by exit, each ``(n, classes)``, and of the ``end``.

    ``labels`` ``(n,)`` are class indices.
    """

    exits: tuple[NDArray[np.float32], ...]
    end: NDArray[np.float32]
    labels: NDArray[np.int64]

    def take(self, indices: NDArray[np.intp]) -> Recorded:
        """Return some samples."""
        exits = tuple(logits[indices] for logits in self.exits)
        return Recorded(exits, self.end[indices], self.labels[indices])

    def at(self, exits: Sequence[int]) -> Recorded:
        """Return the same with these exits (positions) alone."""
        return replace(self, exits=tuple(self.exits[i] for i in exits))

    def accuracies(self) -> list[float]:
        """Return the share of right answers of each exit, and of the end, on all samples."""
        return [float(_right(logits, self.labels).mean()) for logits in (*self.exits, self.end)]

    def temperatures(self) -> tuple[float, ...]:
        """Return the temperature of each exit that makes its probabilities most likely."""
        return tuple(fit_temperature(logits, self.labels) for logits in self.exits)

    def samples(
        self, kind: ConfidenceKind, temperatures: Sequence[float], costs: Sequence[float]
    ) -> CascadeSamples:
        """Return confidence and loss of leaving at each exit: right(end) - right(exit)."""
        ways = zip(self.exits, temperatures, strict=True)
        sure = [confidence(logits, kind, temperature) for logits, temperature in ways]
        end = _right(self.end, self.labels)
        losses = [end - _right(logits, self.labels) for logits in self.exits]
        return CascadeSamples(
            np.stack(sure, axis=1).astype(np.float64), np.stack(losses, axis=1), np.array(costs)
        )


def _right(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (logits.argmax(1) == labels).astype(np.float64)
    return found


def record(job: Job, step: Step, progress: Progress) -> Recorded:
    """Run the step's model with all exits over the samples that thresholds are chosen on.

    These are the job's exit samples, or else the validation samples: those of the calibration set
    come from the training data, on which the original has usually been trained, so that it is
    surer and more often right there than on anything new.
    """
    samples = job.data.validation if job.exit_samples is None else job.exit_samples
    own = job.loaded.spec.outputs
    outputs = (*own[:1], *(replace(own[0], name=exit.name) for exit in step.exits))
    spec = ModelSpec(job.loaded.spec.inputs, outputs)
    onnx = (step.folder / EXITS_HERE).read_bytes()
    predict = onnx_predictor(onnx, spec, job.profile.runtime)
    found, labels = predict_all(predict, job.data, samples, job.loaded.spec, progress)
    assert labels is not None  # the stage has refused data without labels
    logits: list[NDArray[Any]] = [np.asarray(values, np.float32) for values in found]
    return Recorded(tuple(logits[1:]), logits[0], labels)
