"""Training a changed model to answer as the original does; stages call this after their change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgekd.errors import StageError
from edgekd.graph.batchnorm import fold_batch_norm
from edgekd.graph.devices import move
from edgekd.graph.program import clone
from edgekd.graph.taps import Tap
from edgekd.progress import Progress
from edgekd.stages.distillation_loss import check_loss, distillation_loss
from edgekd.stages.teacher_cache import teacher_outputs
from edgekd.stages.train_student import schedule_of, train_student
from edgekd.state import CompressionState
from edgekd.training import Loss, training_device
from edgekd.training_settings import Distill


def check_distillation(state: CompressionState, options: Distill, *, stage: str) -> None:
    """Raise StageError, before any work, for what cannot be trained on this model or machine."""
    check_loss(state, options, stage=stage)
    # bfloat16 keeps too few digits for weights on a grid; float weights are content with it.
    if options.mixed_precision and stage == "quantize" and training_device().type != "cuda":
        raise StageError(
            f"{stage}: 'distill.mixed_precision' needs a CUDA GPU, and torch sees none; set it to "
            "false"
        )


def distill(
    state: CompressionState,
    original: fx.GraphModule,
    student: fx.GraphModule,
    options: Distill,
    progress: Progress,
    *,
    title: str,
    taps: Sequence[Tap] = (),
    teacher: fx.GraphModule | None = None,
    after_step: Callable[[int], None] = lambda _step: None,
    carried: Mapping[str, Tensor] | None = None,
    batch_statistics: bool = True,
    undo: bool = True,
    device: torch.device | None = None,
    exit_weights: Sequence[float] = (),
    self_taught: bool = False,
    frozen: Collection[str] = (),
) -> dict[str, Any]:
    """Train ``student`` in place against the teacher; return details for the report.

    ``original`` has the tensors that those of the student are compared with, where ``taps`` say.
    ``teacher`` gives the outputs to learn; by default ``original`` does, in the same pass. Neither
    is changed, and either may have batch norms or have them folded. With ``batch_statistics`` the
    student's batch norms train with the statistics of each batch, and the running ones are taken
    anew in the end; without, they stay as they are in inference.

    ``after_step`` is called behind every optimiser step with the number of steps done (from 1),
    and once more in the end; it may change the student's parameters (masks). ``carried`` are
    tensors that it changes: a checkpoint holds them too, and brings them back in place.

    ``exit_weights`` has a number for each early exit of the student, whose logits stand behind its
    own outputs: the weight of its loss where the final one's is 1. When ``self_taught``, exits
    learn from the student's own final outputs, which then do not learn, and ``original`` is not
    asked. ``frozen`` names stored tensors that stay as they are: no gradient, no new statistics.

    Training runs on ``device``, by default ``training_device()``; the student comes back to the
    CPU. With ``ema`` the averaged weights take the place of the last. The loss on the calibration
    samples, which training never sees, decides whether the training is kept: with ``undo`` a
    student that did not gain goes back to what it was. Where the state has a cache and a key, a
    run that was killed goes on from its last checkpoint, to the same weights; ``title`` must then
    differ from that of every other training of the stage.
    """
    device = device or training_device()
    original = clone(original)
    teacher = original if teacher is None else clone(teacher)
    if options.feature_weight == 0:
        fold_batch_norm(teacher)
    for module in (original, teacher):
        move(module, device)

    def loss_in(*, training: bool) -> Loss:
        return distillation_loss(
            student,
            teacher,
            options,
            classification=state.classification,
            taps=taps,
            original=original,
            mixed_precision=training and options.mixed_precision,
            batch_statistics=training and batch_statistics,
            exit_weights=exit_weights,
            self_taught=self_taught,
            frozen=frozen,
        )

    schedule = schedule_of(state, options)
    known = None
    if not self_taught:
        known = teacher_outputs(
            state,
            teacher,
            options,
            schedule,
            progress,
            device=device,
            title=title,
            features=options.feature_weight > 0,
        )
    return train_student(
        state,
        student,
        options,
        schedule,
        loss_in,
        progress,
        title=title,
        known=known,
        after_step=after_step,
        carried=carried,
        batch_statistics=batch_statistics,
        undo=undo,
        device=device,
        frozen=frozen,
    )
