"""What the labels are worth, and what the teacher knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from edgekd.advice.pair import BATCH, Network, batches
from edgekd.algorithms.temperature import fit_temperature
from edgekd.data.samples import NO_LABEL, Array, Samples
from edgekd.data.source import Dataset
from edgekd.errors import DataError
from edgekd.graph.program import output_tensors
from edgekd.metrics import expected_calibration_error
from edgekd.progress import Progress, Silent

Task = Literal["classes", "dense", "numbers"]


@dataclass(frozen=True)
class Labels:
    """Counted over training samples; what needs the teacher, over ``looked_at`` of them.

    ``classes`` is the number of logits, None for other tasks. ``share`` of the samples has a label.
    ``per_class`` is how many samples each class has. ``disagreement`` is the share of labels that
    are not the teacher's class, and ``suspect`` the share that is likely wrong by
    ``suspect_labels``. None stands for what cannot be known.
    """

    task: Task
    samples: int
    classes: int | None
    share: float
    per_class: tuple[int, ...] | None
    looked_at: int
    disagreement: float | None
    suspect: float | None


@dataclass(frozen=True)
class TeacherQuality:
    """The teacher on validation samples, 0..1; None where these have no labels.

    ``temperature`` is the one that makes its probabilities fit best how often it is right, above 1
    for a teacher that is surer than it should be.
    """

    samples: int
    confidence: float
    accuracy: float | None
    calibration_error: float | None
    temperature: float | None


def find_task(teacher: Network) -> Task:
    """Tell what the teacher's first output is, from its shape and the data's targets.

    Without labels two axes are taken for class logits, unless all rows have the length 1, as
    embeddings have that are compared by angle. Raises DataError for labels of classes that
    the teacher does not have.
    """
    shape = teacher.spec.outputs[0].shape
    targets = _targets(teacher.data)
    if len(shape) == 4:
        return "dense"
    if len(shape) != 2 or (targets is not None and targets.dtype.kind == "f"):
        return "numbers"
    if targets is None:
        return "numbers" if shape[1] == 1 or _has_unit_length(teacher) else "classes"
    if targets.ndim != 1:
        return "numbers"
    known = targets[targets != NO_LABEL]
    if len(known) and (known.min() < 0 or known.max() >= (shape[1] or 0)):
        raise DataError(
            f"labels run from {known.min()} to {known.max()}, but the teacher has {shape[1]} "
            "classes: give data of the teacher's task"
        )
    return "classes"


def judge_labels(teacher: Network, task: Task, most: int, progress: Progress) -> Labels:
    """Count labels, and hold those of ``most`` training samples against the teacher's classes."""
    train = teacher.data.train
    targets = _targets(teacher.data)
    if task != "classes":
        share = 0.0 if targets is None else len(targets) / len(train)
        return Labels(task, len(train), None, share, None, 0, None, None)
    classes = int(teacher.spec.outputs[0].shape[1] or 0)
    if targets is None or not (targets != NO_LABEL).any():
        return Labels(task, len(train), classes, 0.0, None, 0, None, None)
    known = targets[targets != NO_LABEL]
    counts = tuple(np.bincount(known, minlength=classes).tolist())
    logits, labels = run(teacher, train, most, "Asking the teacher about labels", progress)
    assert labels is not None
    logits, labels = logits[labels != NO_LABEL], labels[labels != NO_LABEL]
    if not len(labels):  # of those that were looked at
        return Labels(task, len(train), classes, len(known) / len(train), counts, 0, None, None)
    return Labels(
        task,
        len(train),
        classes,
        len(known) / len(train),
        counts,
        len(labels),
        float((logits.argmax(1) != labels).mean()),
        float(suspect_labels(probabilities(logits), labels).mean()),
    )


def judge_teacher(teacher: Network, most: int, progress: Progress) -> TeacherQuality:
    """Run a classifier over ``most`` validation samples."""
    validation = teacher.data.validation
    logits, labels = run(teacher, validation, most, "Judging the teacher", progress)
    confidence = float(probabilities(logits).max(1).mean())
    known = None if labels is None else labels != NO_LABEL
    if labels is None or known is None or not known.any():
        return TeacherQuality(len(logits), confidence, None, None, None)
    right, own = labels[known], logits[known]
    return TeacherQuality(
        len(logits),
        confidence,
        float((own.argmax(1) == right).mean()),
        expected_calibration_error(own, right),
        fit_temperature(own, right),
    )


def suspect_labels(
    found: npt.NDArray[np.float64], labels: npt.NDArray[np.integer]
) -> npt.NDArray[np.bool_]:
    """Tell for each sample whether its label is likely wrong.

    Args:
        found: the teacher's probabilities, ``(n, C)``.
        labels: a class for each, ``(n,)``.

    A class is likely for a sample whose probability of it is at least the mean one among samples
    with that label. A label is suspect where some class is likely, and the likeliest of them is
    another one. Source: Northcutt et al., "Confident Learning", JAIR 2021, arXiv 1911.00068,
    section 3.1. It assumes a teacher that did not learn these labels by heart; for one that did,
    the share is too low.
    """
    bars = np.full(found.shape[1], np.inf)
    for label in np.unique(labels):
        bars[label] = found[labels == label, label].mean()
    likely = np.where(found >= bars, found, -1.0)
    return np.asarray((likely.max(1) >= 0) & (likely.argmax(1) != labels))


def probabilities(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the softmax of ``(n, C)`` over the classes."""
    scores = np.exp(np.asarray(logits, np.float64) - logits.max(1, keepdims=True))
    return np.asarray(scores / scores.sum(1, keepdims=True))


@torch.no_grad()
def run(
    network: Network, samples: Samples, most: int, description: str, progress: Progress
) -> tuple[npt.NDArray[np.floating], Array | None]:
    """Return the first output for at most ``most`` samples, and their targets if there are any."""
    outputs, targets = [], []
    chosen = list(batches(samples, most))
    with progress.task(description, len(chosen)) as advance:
        for batch in chosen:
            inputs, expected = network.inputs(samples, batch)
            outputs.append(output_tensors(network.module(*inputs))[0].numpy())
            if expected is not None:
                targets.append(expected)
            advance(1)
    return np.concatenate(outputs), np.concatenate(targets) if targets else None


def _has_unit_length(teacher: Network) -> bool:
    outputs, _ = run(teacher, teacher.data.calibration, BATCH, "", Silent())
    return bool(np.allclose(np.linalg.norm(outputs, axis=1), 1, atol=1e-3))


def _targets(data: Dataset) -> Array | None:
    """Return all training targets, without decoding a sample where that can be had."""
    found = getattr(data.train, "targets", None)
    return None if found is None else np.asarray(found)
