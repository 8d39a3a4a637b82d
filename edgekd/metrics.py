"""How good a compressed model is: against the labels and against the original. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
NO_PIXEL_LABELS = (-1, 255)  # what data sets have at pixels that nobody labelled


@dataclass(frozen=True)
class Quality:
    """The result of one evaluation.

    ``metric`` names the headline ``value``: ``top1`` (share of labels predicted right, 0..1),
    ``miou`` (labels at every pixel, see ``mean_iou``), ``cosine`` (mean cosine similarity to the
    original's output) or ``r2`` (regression targets).
    ``agreement``: share of samples (pixels for ``miou``) with the same top-1 class as the original.
    ``negative_flips``: share of all samples that the original had right and this model has wrong
    (Yan et al., CVPR 2021, arXiv 2011.09161, section 3); ``positive_flips``: the reverse.
    ``calibration_error``: see ``expected_calibration_error``. These are None where there are no
    classes, the last three also for ``miou``. ``pixel_accuracy``: share of labelled pixels
    predicted right, for ``miou`` only.
    """

    metric: str
    value: float
    samples: int
    agreement: float | None = None
    negative_flips: float | None = None
    positive_flips: float | None = None
    calibration_error: float | None = None
    max_difference: float | None = None
    pixel_accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Budget:
    """How much worse than the original a model may be; None is no limit.

    ``max_drop`` is in percentage points of the headline metric, ``max_nfr`` in per cent of all
    samples that the original had right and the model has wrong.
    """

    max_drop: float | None = None
    max_nfr: float | None = None

    def __bool__(self) -> bool:
        return self.max_drop is not None or self.max_nfr is not None

    def allows_drop(self, points: float) -> bool:
        """Tell whether a loss of ``points`` is within the budget."""
        return self.max_drop is None or points <= self.max_drop + 1e-9

    def allows_flips(self, negative_flips: float | None) -> bool:
        """Tell whether this share (0..1) of flips is within the budget; None: no classes."""
        if self.max_nfr is None or negative_flips is None:
            return True
        return 100 * negative_flips <= self.max_nfr + 1e-9

    def holds(self, points: float, negative_flips: float | None) -> bool:
        """Tell whether both limits are kept."""
        return self.allows_drop(points) and self.allows_flips(negative_flips)


def is_classification(targets: npt.NDArray[Any] | None, output: Floats) -> bool:
    """Tell whether integer labels index the last axis of a ``(N, C)`` output."""
    if targets is None or targets.ndim != 1 or output.ndim != 2:
        return False
    if not np.issubdtype(targets.dtype, np.integer) or len(targets) == 0:
        return False
    return bool(targets.min() >= 0 and targets.max() < output.shape[1])


def is_dense(targets: npt.NDArray[Any] | None, output: Floats) -> bool:
    """Tell whether integer labels ``(N, H, W)`` index axis 1 of a ``(N, C, H, W)`` output, C > 1.

    Pixels may be without a label (``labelled_pixels``), but not all of them.
    """
    if targets is None or targets.ndim != 3 or output.ndim != 4 or output.shape[1] < 2:
        return False
    if not np.issubdtype(targets.dtype, np.integer) or targets.shape != output[:, 0].shape:
        return False
    wrong = ~labelled_pixels(targets, output.shape[1]) & ~np.isin(targets, NO_PIXEL_LABELS)
    return bool(not wrong.any() and not np.isin(targets, NO_PIXEL_LABELS).all())


def labelled_pixels(targets: npt.NDArray[Any], classes: int) -> npt.NDArray[np.bool_]:
    """Return which pixels have a label: neither -1 nor, if there is no such class, 255."""
    return np.asarray((targets >= 0) & (targets < classes))


def mean_iou(
    predicted: npt.NDArray[Any], labels: npt.NDArray[Any], classes: int
) -> tuple[float, float]:
    """Return the mean intersection over union of the classes, and the share of right pixels.

    Pixels of all samples count together, those without a label not at all. The mean is over classes
    that occur among labels or predictions (Everingham et al., "The PASCAL Visual Object Classes
    Challenge: A Retrospective", IJCV 2015, section 4.1.3).
    """
    known = labelled_pixels(labels, classes)
    pairs = classes * labels[known].astype(np.int64) + predicted[known]
    table = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    right = np.diag(table)
    union = table.sum(0) + table.sum(1) - right
    present = union > 0
    return float((right[present] / union[present]).mean()), float(right.sum() / table.sum())


def compare(output: Floats, reference: Floats, targets: npt.NDArray[Any] | None) -> Quality:
    """Judge ``output`` against ``reference`` (the original's output) and the targets.

    ``output`` and ``reference`` have the same shape, samples first. Labels give top-1, those at
    every pixel mean IoU; float targets of the output's shape give R^2; otherwise mean cosine
    similarity per sample.
    """
    difference = float(np.abs(output - reference).max()) if output.size else 0.0
    if is_classification(targets, output):
        assert targets is not None
        predicted, original = output.argmax(1), reference.argmax(1)
        right, was_right = predicted == targets, original == targets
        return Quality(
            "top1",
            float(right.mean()),
            len(output),
            agreement=float((predicted == original).mean()),
            negative_flips=float((was_right & ~right).mean()),
            positive_flips=float((~was_right & right).mean()),
            calibration_error=expected_calibration_error(output, targets),
            max_difference=difference,
        )
    if is_dense(targets, output):
        assert targets is not None
        predicted, original = output.argmax(1), reference.argmax(1)
        iou, accuracy = mean_iou(predicted, targets, output.shape[1])
        return Quality(
            "miou",
            iou,
            len(output),
            agreement=float((predicted == original).mean()),
            max_difference=difference,
            pixel_accuracy=accuracy,
        )
    if targets is not None and np.issubdtype(targets.dtype, np.floating):
        aligned = targets.reshape(output.shape) if targets.size == output.size else None
        if aligned is not None:
            return Quality("r2", _r2(output, aligned), len(output), max_difference=difference)
    return Quality("cosine", mean_cosine(output, reference), len(output), max_difference=difference)


def expected_calibration_error(logits: Floats, labels: npt.NDArray[Any], bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy, over equal-width confidence bins.

    ``logits`` is ``(N, C)``, ``labels`` integer ``(N,)``. (Guo et al., ICML 2017, arXiv
    1706.04599, section 2, eq. 3.)
    """
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(index, confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def compare_outputs(
    outputs: Sequence[Floats], references: Sequence[Floats], targets: npt.NDArray[Any] | None
) -> Quality:
    """Judge a model with one or more outputs; targets belong to the first.

    Without targets the headline is the output with the lowest cosine similarity.
    """
    pairs = list(zip(outputs, references, strict=True))
    first = compare(*pairs[0], targets)
    difference = max(float(np.abs(o - r).max()) if o.size else 0.0 for o, r in pairs)
    value = first.value
    if first.metric == "cosine":
        value = min(mean_cosine(o, r) for o, r in pairs)
    return replace(first, value=value, max_difference=difference)


def mean_cosine(a: Floats, b: Floats) -> float:
    """Return the mean over samples of the cosine between the flattened outputs."""
    a, b = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = np.einsum("nd,nd->n", a, b)
    both_zero = (np.linalg.norm(a, axis=1) == 0) & (np.linalg.norm(b, axis=1) == 0)
    cosines = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return float(np.where(both_zero, 1.0, cosines).mean())


def _r2(output: Floats, targets: npt.NDArray[Any]) -> float:
    residual = float(np.square(output - targets).sum())
    spread = float(np.square(targets - targets.mean(0)).sum())
    return 1.0 - residual / spread if spread > 0 else float(residual == 0)


def drop_points(quality: Quality, original: Quality) -> float:
    """Return how much worse than the original, in percentage points (negative: better)."""
    return 100.0 * (original.value - quality.value)
