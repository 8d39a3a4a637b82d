"""Training a changed model to answer as the original does; stages call this after their change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.optim.swa_utils import AveragedModel

from edgekd.algorithms.augment import augment_images
from edgekd.algorithms.moving_average import moving_average
from edgekd.data.loader import Batch, batches, indexed_batches
from edgekd.errors import StageError
from edgekd.graph.canonical import canonicalize
from edgekd.graph.devices import move
from edgekd.graph.program import clone
from edgekd.model.trace import quiet
from edgekd.progress import Progress
from edgekd.recipe import Distill
from edgekd.stages.distillation_loss import check_loss, distillation_loss
from edgekd.stages.teacher_cache import TeacherOutputs, teacher_outputs
from edgekd.state import CompressionState
from edgekd.training import Loss, Schedule, train, training_device


def check_distillation(state: CompressionState, options: Distill, *, stage: str) -> None:
    """Raise StageError, before any work, for what cannot be trained on this model or machine."""
    check_loss(state, options, stage=stage)
    if options.mixed_precision and training_device().type != "cuda":
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
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Train ``student`` in place against the teacher; return details for the report.

    ``original`` is the program that ``student`` was before quantizers were put in; features are
    compared with its tensors. Training runs on ``device``, by default ``training_device()``; the
    student comes back to the CPU. With ``ema`` the averaged weights take the place of the last.
    The loss on the calibration samples, which training never sees, decides whether the training
    is kept: a student that did not gain goes back to what it was.
    """
    device = device or training_device()
    original = clone(original)
    teacher = original if state.model is state.teacher else _teacher(state)
    for module in (student, original, teacher):
        move(module, device)
    before = copy.deepcopy(student.state_dict())

    def loss_in(*, mixed_precision: bool) -> Loss:
        return distillation_loss(
            student,
            teacher,
            options,
            classification=state.classification,
            original=original,
            mixed_precision=mixed_precision,
        )

    judge = loss_in(mixed_precision=False)  # what is deployed has no 16-bit floats
    held_out = [held_out_loss(state, judge, device)]
    schedule = Schedule(
        options.epochs,
        -(-len(state.data.train) // options.batch_size),
        options.learning_rate,
        max_steps=options.max_steps,
    )
    known = teacher_outputs(state, teacher, options, schedule, progress, device=device, title=title)
    average = None if options.ema is None else _average(student, options.ema)
    history = train(
        [p for p in student.parameters() if p.requires_grad],
        loss_in(mixed_precision=options.mixed_precision),
        _epochs(state, options, known, device),
        schedule,
        progress,
        title=title,
        scaler=torch.amp.GradScaler(
            device.type, enabled=options.mixed_precision and device.type == "cuda"
        ),
        after_step=lambda: None if average is None else average.update_parameters(student),
    )
    if average is not None:
        student.load_state_dict(average.module.state_dict())
    held_out.append(held_out_loss(state, judge, device))
    kept = held_out[1] <= held_out[0]
    if not kept:
        student.load_state_dict(before)
        progress.note(f"{title} did not lower the held-out loss; it was undone")
    move(student, torch.device("cpu"))
    return {
        "train_loss": history,
        "held_out_loss": held_out,
        "distillation_kept": kept,
        "trained_on": device.type,
        "teacher_cache": "unused" if known is None else known.status,
        "teacher_cache_bytes": 0 if known is None else known.size,
    }


def _teacher(state: CompressionState) -> fx.GraphModule:
    teacher = clone(state.teacher)
    canonicalize(teacher)
    return teacher


def _average(student: fx.GraphModule, decay: float) -> AveragedModel:
    with quiet():
        return AveragedModel(student, multi_avg_fn=moving_average(decay))


def _epochs(
    state: CompressionState,
    options: Distill,
    known: TeacherOutputs | None,
    device: torch.device,
) -> Callable[[], Iterator[Batch]]:
    """Return a function that starts a pass over the training samples, newly shuffled.

    The teacher's outputs follow the model's inputs where they are known.
    """
    data = state.data
    order = np.random.default_rng(state.seed)
    generator = torch.Generator().manual_seed(state.seed)

    def one_epoch() -> Iterator[Batch]:
        for chosen, inputs, targets in indexed_batches(
            data, data.train, state.spec, options.batch_size, order=order
        ):
            images = augment_images(inputs[0], options.augment, generator)
            answers = () if known is None else known.rows(chosen)
            yield _to(device, ((images, *inputs[1:], *answers), targets))

    return one_epoch


@torch.no_grad()
def held_out_loss(state: CompressionState, loss: Loss, device: torch.device) -> float:
    """Return the mean loss on the calibration samples, which training never sees."""
    total, count = 0.0, 0
    for batch in batches(state.data, state.data.calibration, state.spec, 64):
        inputs, targets = _to(device, batch)
        total += float(loss(inputs, targets)) * len(inputs[0])
        count += len(inputs[0])
    return total / max(1, count)


def _to(device: torch.device, batch: Batch) -> Batch:
    inputs, targets = batch
    moved = tuple(tensor.to(device) for tensor in inputs)
    return moved, None if targets is None else targets.to(device)
