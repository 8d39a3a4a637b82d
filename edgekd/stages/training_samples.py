"""Which of the training samples a ``distill`` stage uses."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from edgekd.algorithms.keep_fraction import difficulty, kept_samples, teacher_weight
from edgekd.algorithms.select_unlabelled import select_unlabelled
from edgekd.data.loader import batches
from edgekd.data.parts import unlabelled_places, with_train
from edgekd.data.samples import StoredSamples
from edgekd.data.source import Dataset
from edgekd.errors import StageError
from edgekd.graph.batchnorm_mode import train_batch_norm
from edgekd.graph.program import output_tensors
from edgekd.graph.taps import with_outputs
from edgekd.processes.group import by_first
from edgekd.progress import Progress
from edgekd.stages.distill_loss import AskTeachers
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage

Logits = npt.NDArray[np.float32]
_BATCH = 256


def chosen_samples(
    state: CompressionState,
    options: DistillStage,
    student: fx.GraphModule,
    teachers: AskTeachers,
    progress: Progress,
    *,
    device: torch.device,
    title: str,
) -> CompressionState:
    """Return the state with the training samples that the stage asks for.

    First ``samples``, then the selection among those without a label, then ``keep_fraction``. The
    student takes part in the selection if it starts from weights of its own. ``student`` and
    ``teachers`` are on ``device``. Raises StageError where no sample is left.
    """
    data = _of_kind(state, options)
    before = len(state.data.train)
    if (selection := options.select_unlabelled) is not None:
        without = unlabelled_places(data.train)
        if len(without):
            there = replace(state, data=with_train(data, without))
            taught = answers(there, teachers, device)
            knows = options.student is None or options.student_weights is not None
            own = answers(there, as_deployed(student), device) if knows else None
            best = select_unlabelled(
                taught,
                own,
                per_class=selection.per_class,
                least_confidence=selection.least_confidence,
            )
            labelled = np.setdiff1d(np.arange(len(data.train)), without)
            data = with_train(data, np.concatenate([labelled, without[best]]))
    if options.keep_fraction < 1 and len(data.train):
        scores = np.zeros(len(data.train))
        if options.keep != "random":
            targets = cast(StoredSamples, data.train).targets
            taught = answers(replace(state, data=data), teachers, device)
            scores = difficulty(taught, None if targets is None else targets.astype(np.int64))
        kept = kept_samples(scores, options.keep_fraction, order=options.keep, seed=state.seed)
        data = with_train(data, kept)
    if not len(data.train):
        raise StageError(
            "distill: no training sample is left; change 'samples' or 'select_unlabelled'"
        )
    if len(data.train) != before:
        progress.note(f"{title}: {len(data.train)} of {before} training samples")
    return replace(state, data=data)


def check_samples(state: CompressionState, options: DistillStage) -> None:
    """Raise StageError, before any work, for a choice that this data cannot give."""
    if not len(_of_kind(state, options).train):
        raise StageError(
            f"distill: 'samples: {options.samples}', and the data has none; "
            + ("--unlabeled adds some" if options.samples == "unlabelled" else "use 'all'")
        )
    asked = [
        name
        for name, used in {
            "select_unlabelled": options.select_unlabelled is not None,
            f"keep: {options.keep}": options.keep != "random" and options.keep_fraction < 1,
            "gap_sampling": options.gap_sampling is not None,
            "hard_augment": options.hard_augment,
            "stored_top_k": options.stored_top_k is not None,
        }.items()
        if used
    ]
    if asked and not state.classification:
        raise StageError(
            f"distill: '{asked[0]}' goes by class probabilities, and the outputs are no class "
            "logits; leave it out"
        )


def weights_of(options: DistillStage) -> tuple[float, float]:
    """Return what the losses and the labels are multiplied by.

    ``label_weight: tied`` shares 1 among them: the smaller the part of the data, the more of it is
    the teacher's (``teacher_weight``).
    """
    if options.label_weight != "tied":
        return 1.0, options.label_weight
    share = teacher_weight(options.keep_fraction)
    return share, 1 - share


def _of_kind(state: CompressionState, options: DistillStage) -> Dataset:
    data = state.data
    if options.samples == "all":
        return data
    without = unlabelled_places(data.train)
    if options.samples == "labelled":
        without = np.setdiff1d(np.arange(len(data.train)), without)
    return with_train(data, without)


def as_deployed(student: fx.GraphModule) -> fx.GraphModule:
    """Return the student with running statistics in its batch norms; it shares all tensors."""
    return train_batch_norm(with_outputs(student, []), False)


@torch.no_grad()
def answers(
    state: CompressionState, module: AskTeachers | fx.GraphModule, device: torch.device
) -> Logits:
    """Return the first output for all training samples as they are, float32 ``(n, ...)``.

    Of several processes the first one asks for all, so that all choose the same samples.
    """
    return by_first(lambda: _answers(state, module, device))


def _answers(
    state: CompressionState, module: AskTeachers | fx.GraphModule, device: torch.device
) -> Logits:
    found: list[Tensor] = []
    for inputs, _ in batches(state.data, state.data.train, state.spec, _BATCH):
        outputs = module(*(tensor.to(device) for tensor in inputs))
        found.append(output_tensors(outputs)[0].float().cpu())
    return np.asarray(torch.cat(found).numpy(), np.float32)
