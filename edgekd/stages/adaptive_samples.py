"""Samples that a student lags behind its teacher on: drawn more often, or made harder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from edgekd.algorithms.gap_sampling import group_gaps, group_probabilities, sample_weights
from edgekd.algorithms.hard_augment import augmentation_strength
from edgekd.data.parts import unlabelled_places
from edgekd.data.samples import NO_LABEL, StoredSamples
from edgekd.stages.distill_loss import AskTeachers
from edgekd.stages.training_samples import answers, as_deployed
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage, GapSampling

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Adapted:
    """How a pass treats each training sample: how often it is drawn, and how strongly blanked.

    None: each sample once, and nothing blanked.
    """

    weights: Weights | None = None
    strength: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return it as tensors."""
        weights = None if self.weights is None else torch.from_numpy(self.weights)
        return {"weights": weights, "strength": self.strength}


def adapted_from(saved: dict[str, Any]) -> Adapted:
    """Return what ``state_dict`` described."""
    weights = saved["weights"]
    return Adapted(None if weights is None else weights.numpy(), saved["strength"])


Adapt = Callable[[], Adapted]


def adapting(
    state: CompressionState,
    options: DistillStage,
    student: fx.GraphModule,
    teachers: AskTeachers,
    device: torch.device,
) -> Adapt | None:
    """Return what looks at the student before a pass; None where the stage asks for neither.

    A look takes a forward pass of the student over all training samples, as they are and as it is
    deployed; the teacher is asked once. ``student`` and ``teachers`` are on ``device``.
    """
    gap, hard = options.gap_sampling, options.hard_augment
    if gap is None and not hard:
        return None
    taught = torch.from_numpy(answers(state, teachers, device))
    labels = _labels(state, taught)

    def look() -> Adapted:
        own = torch.from_numpy(answers(state, as_deployed(student), device))
        weights = None if gap is None else _weights(state, gap, own, taught, labels)
        strength = augmentation_strength(own, taught, labels=labels) if hard else None
        return Adapted(weights, strength)

    return look


def _labels(state: CompressionState, taught: Tensor) -> Tensor:
    targets = cast(StoredSamples, state.data.train).targets
    if targets is None:
        return torch.full((len(taught),), NO_LABEL)
    return torch.from_numpy(np.asarray(targets, np.int64))


def _weights(
    state: CompressionState, gap: GapSampling, own: Tensor, taught: Tensor, labels: Tensor
) -> Weights:
    """Return each sample's probability of being drawn.

    Scores are the probabilities of the label, or of the teacher's class where there is none.
    """
    classes = torch.where(labels == NO_LABEL, taught.argmax(1), labels)
    known, sure = (x.softmax(1).gather(1, classes[:, None])[:, 0] for x in (own, taught))
    if gap.by == "class":
        groups, count = classes, taught.shape[1]
    else:
        groups, count = torch.zeros(len(labels), dtype=torch.int64), 2
        groups[torch.from_numpy(unlabelled_places(state.data.train))] = 1
    probabilities = group_probabilities(
        group_gaps(known, sure, groups, count),
        smoothing=gap.smoothing,
        least=gap.least,
        most=gap.most,
    )
    return np.asarray(sample_weights(groups, probabilities).numpy())
