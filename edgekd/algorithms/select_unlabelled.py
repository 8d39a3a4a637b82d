"""Which images without labels are worth distilling on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def joint_scores(
    teacher_logits: NDArray[np.floating], student_logits: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Return ``q_c (1 - p_c)`` for every sample ``(n,)``, c the teacher's class: in [0, 1].

    It is high where the teacher is sure and the student is not, which is where something can be
    learned; what neither knows and what both know scores low. Without a student it is q_c.

    Args:
        teacher_logits: ``(n, C)``, finite; q = softmax(t).
        student_logits: ``(n, C)``, finite; p = softmax(s). None: the teacher decides alone.

    The joint form is ours. The teacher alone is the score of Cui et al. (SSLD), arXiv 2103.05959.

    Raises ValueError for unequal shapes.
    """
    taught = _probabilities(teacher_logits)
    rows, chosen = np.arange(len(taught)), taught.argmax(axis=1)
    sure: NDArray[np.float64] = taught[rows, chosen]
    if student_logits is None:
        return sure
    found = _probabilities(student_logits)
    if found.shape != taught.shape:
        raise ValueError(f"logits of student and teacher: {found.shape} and {taught.shape}")
    known: NDArray[np.float64] = found[rows, chosen]
    return sure * (1 - known)


def select_unlabelled(
    teacher_logits: NDArray[np.floating],
    student_logits: NDArray[np.floating] | None = None,
    *,
    per_class: int,
    least_confidence: float = 0.5,
) -> NDArray[np.int64]:
    """Return the indices of the samples with the highest ``joint_scores`` of every class, rising.

    Args:
        teacher_logits: ``(n, C)``, finite. A sample's class is the teacher's.
        student_logits: ``(n, C)``, finite, or None.
        per_class: how many at most; classes may have fewer.
        least_confidence: samples of which the teacher is less sure are never taken.

    Ties go to the lower index. The source (arXiv 2103.05959) takes the k best images of every
    class by that class's score, so that one image may stand for two classes; here it stands for
    the teacher's first. Remove near-duplicates of validation images before, as the source does.

    Raises ValueError for a number below 1.
    """
    if per_class < 1:
        raise ValueError(f"cannot take {per_class} samples of every class")
    confidence = joint_scores(teacher_logits)
    scores = joint_scores(teacher_logits, student_logits)
    classes = np.asarray(teacher_logits).argmax(axis=1)
    best = np.argsort(-scores, kind="stable")
    best = best[confidence[best] >= least_confidence]
    kept = [best[classes[best] == index][:per_class] for index in np.unique(classes)]
    return np.sort(np.concatenate(kept)).astype(np.int64)


def _probabilities(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    scores = np.asarray(logits, np.float64)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))
