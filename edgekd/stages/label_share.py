"""``label_share: auto`` of the loss ``repeated``: a number, from samples that trained nothing."""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from edgekd.algorithms.feature_shapes import pooled
from edgekd.algorithms.label_share import probe_label_share
from edgekd.data.loader import batches
from edgekd.data.samples import NO_LABEL
from edgekd.data.source import Samples
from edgekd.distillation.pairing import block_places
from edgekd.errors import StageError
from edgekd.graph.devices import move
from edgekd.graph.float_form import float_form
from edgekd.graph.taps import with_outputs
from edgekd.loss_settings import LossSettings, Repeated
from edgekd.progress import Progress
from edgekd.stages.distillation_loss import folded, run
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage

TRAINING_SAMPLES = 4096  # that the probe is fitted on, at most
MOST_ERROR = 0.25
DEFAULT = 0.6  # of the loss, and of the authors' example
_WHERE = "distill: 'label_share: auto'"


def with_label_share(options: DistillStage, share: float) -> DistillStage:
    """Return the options with ``share`` in the place of every ``auto``."""
    losses = tuple(
        entry.model_copy(update={"label_share": share}) if _is_auto(entry) else entry
        for entry in options.losses or ()
    )
    return options.model_copy(update={"losses": losses})


def check_label_share(
    state: CompressionState, options: DistillStage, teacher: fx.GraphModule
) -> None:
    """Raise StageError where ``auto`` is asked for and nothing can be found."""
    if not _has_auto(options):
        return
    if not state.classification:
        raise StageError(f"{_WHERE} needs class logits with integer labels that index them")
    place = next(iter(block_places(float_form(teacher, state.example))[-1:]), None)
    if place is None or len(place.shape) > 3:
        raise StageError(
            f"{_WHERE} fits the teacher's last vectors, maps or tokens between blocks, and it has "
            "none; give a number"
        )


@torch.no_grad()
def find_label_share(
    state: CompressionState,
    options: DistillStage,
    teacher: fx.GraphModule,
    progress: Progress,
    device: torch.device,
) -> tuple[DistillStage, dict[str, float] | None]:
    """Return the options with a number in the place of ``auto``, and what was found; None without.

    The number is what ``probe_label_share`` finds, or, where its standard error is above
    ``MOST_ERROR``, the default of the loss: a teacher that knows the samples by heart says what
    their labels say, and every share is as good.

    Its features are the means of the teacher's last tensor between blocks, its targets the labels
    and the teacher's probabilities of up to ``TRAINING_SAMPLES`` training samples as they are; it
    is tried on the calibration samples. Raises StageError without labelled samples in one of the
    sets.
    """
    if not _has_auto(options):
        return options, None
    written = float_form(teacher, state.example)
    node = block_places(written)[-1].node
    probe = folded(with_outputs(written, [node]))
    move(probe, device)

    def ask(samples: Samples, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, labels as vectors, and the teacher's probabilities."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        order = None if limit is None else np.random.default_rng(state.seed)
        for inputs, targets in batches(
            state.data, samples, state.spec, 64, order=order, limit=limit
        ):
            answers = run(probe, tuple(tensor.to(device) for tensor in inputs))
            classes = answers[0].shape[-1]
            labels = torch.full((len(inputs[0]),), NO_LABEL) if targets is None else targets
            known = labels != NO_LABEL
            vectors = F.one_hot(labels[known], classes).float()
            features = pooled(answers[-1].float()).cpu()[known]
            found.append((features, vectors, answers[0].float().softmax(-1).cpu()[known]))
        parts = [torch.cat(column) for column in zip(*found, strict=True)] if found else []
        if not parts or len(parts[0]) < 2:
            raise StageError(f"{_WHERE} needs labelled training and calibration samples")
        return parts[0], parts[1], parts[2]

    features, labels, answers = ask(state.data.train, TRAINING_SAMPLES)
    held_out, truth, _ = ask(state.data.calibration, None)
    share = probe_label_share(features, labels, answers, held_out, truth)
    found = f"{share.best:.2f} (+- {share.error:.2f}) on {len(truth)} calibration samples"
    used = share.best if share.error <= MOST_ERROR else DEFAULT
    if share.error <= MOST_ERROR:
        told = f"{used:.2f}: ridge regression on the teacher's last features finds {found}"
    else:
        told = f"{used:.2f}, the default: ridge regression leaves it open, at {found}"
    progress.note(f"distill: label_share {told}")
    facts = {"best": share.best, "error": min(share.error, sys.float_info.max), "used": used}
    return with_label_share(options, used), facts


def _has_auto(options: DistillStage) -> bool:
    return any(_is_auto(entry) for entry in options.losses or ())


def _is_auto(entry: LossSettings) -> bool:
    return isinstance(entry, Repeated) and entry.label_share == "auto"
