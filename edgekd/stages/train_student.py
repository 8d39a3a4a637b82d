"""Training any student by any loss, resumable, and kept only where it helped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.optim.swa_utils import AveragedModel

from edgekd.algorithms.moving_average import moving_average
from edgekd.data.loader import batches
from edgekd.graph.batchnorm import batch_norms
from edgekd.graph.batchnorm_mode import reestimate_batch_norm
from edgekd.graph.devices import move
from edgekd.graph.program import digest
from edgekd.model.trace import quiet
from edgekd.processes.group import by_first
from edgekd.processes.group import count as processes
from edgekd.progress import Progress
from edgekd.stages.adaptive_samples import Adapt
from edgekd.stages.checkpoint import Checkpoint, Restorable
from edgekd.stages.passes import Passes, to_device
from edgekd.stages.teacher_cache import TeacherOutputs
from edgekd.state import CompressionState
from edgekd.training import Inputs, Loss, Schedule, train
from edgekd.training_settings import Training

STATISTICS_SAMPLES = 4096  # for the running statistics of batch norms


def schedule_of(
    state: CompressionState, options: Training, student: fx.GraphModule | None = None
) -> Schedule:
    """Return the schedule that ``distill`` trains by; its ``steps`` is the number of steps.

    ``student`` is what is trained where it is not of the form of the state's model.
    """
    optimizer: Literal["adamw", "sgd"]
    if options.optimizer == "auto":
        # As such networks are usually trained: transformers with adaptive rates.
        optimizer = "sgd" if batch_norms(student or state.model) else "adamw"
    else:
        optimizer = options.optimizer
    rate, decay = {"sgd": (0.05, 5e-4), "adamw": (1e-3, 0.0)}[optimizer]
    return Schedule(
        options.epochs,
        -(-len(state.data.train) // options.batch_size),
        rate if options.learning_rate is None else options.learning_rate,
        max_steps=options.max_steps,
        weight_decay=decay if options.weight_decay is None else options.weight_decay,
        optimizer=optimizer,
        clip_norm=options.clip_norm,
    )


class LossIn(Protocol):
    """Builds a loss when the student is on its device."""

    def __call__(self, *, training: bool) -> Loss:
        """Return the loss that is trained, or the one that judges the student as deployed."""
        ...


def train_student(
    state: CompressionState,
    student: fx.GraphModule,
    options: Training,
    schedule: Schedule,
    loss_in: LossIn,
    progress: Progress,
    *,
    title: str,
    known: TeacherOutputs | None,
    device: torch.device,
    beside: nn.Module | None = None,
    parts: Mapping[str, Restorable] = MappingProxyType({}),
    after_step: Callable[[int], None] = lambda _step: None,
    before_training: Callable[[], None] = lambda: None,
    carried: Mapping[str, Tensor] | None = None,
    batch_statistics: bool = True,
    undo: bool = True,
    frozen: Collection[str] = (),
    views: int | None = None,
    adapt: Adapt | None = None,
) -> dict[str, Any]:
    """Train ``student`` in place by any loss; return details for the report.

    What ``distill`` says of its arguments holds here too. ``loss_in`` gives the loss to train by,
    and the one on the calibration samples that decides whether the training is kept. ``known`` are
    the teacher's outputs where they are stored. ``beside`` has weights that learn with the student
    and are no part of it; it is on ``device``. ``parts`` belong into a checkpoint as well. With
    ``views`` so many versions of each augmented sample take turns; ``adapt`` says
    what a pass does with them.
    ``before_training`` may change the student's weights: what is undone goes back behind it.
    """
    start = digest(student)
    move(student, device)
    learns = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(learns[name] and name not in frozen)
    before = copy.deepcopy(student.state_dict())
    judge = loss_in(training=False)  # what is deployed has no 16-bit floats
    held_out = [by_first(lambda: held_out_loss(state, judge, device))]
    if options.compile and device.type != "cuda":
        progress.note(f"{title}: 'compile' is for CUDA GPUs; not used on this machine")
    before_training()
    average = None if options.ema is None else _average(student, options.ema)
    passes = Passes(state, options, known, device, views=views, adapt=adapt)
    kept_parts: dict[str, Restorable] = {"student": student, "passes": passes, **parts}
    trained = list(student.parameters())
    if beside is not None:
        kept_parts["beside"] = beside
        trained += beside.parameters()
    if average is not None:
        kept_parts["average"] = average

    def finish_step(step: int) -> None:
        after_step(step)
        if average is not None:
            average.update_parameters(student)

    history = train(
        [parameter for parameter in trained if parameter.requires_grad],
        loss_in(training=True),
        passes,
        schedule,
        progress,
        title=title,
        scaler=torch.amp.GradScaler(
            device.type, enabled=options.mixed_precision and device.type == "cuda"
        ),
        after_step=finish_step,
        keeper=None
        if state.cache is None or state.key is None
        else Checkpoint(
            state.cache.partial(state.key), title, start, kept_parts, carried or {}, progress
        ),
        compiled=options.compile and device.type == "cuda",
    )
    if average is not None:
        student.load_state_dict(average.module.state_dict())
    after_step(schedule.steps)
    if batch_statistics:
        reestimate_statistics(state, student, options.batch_size, device, frozen=frozen)
    held_out.append(by_first(lambda: held_out_loss(state, judge, device)))
    kept = not undo or held_out[1] <= held_out[0]
    if not kept:
        student.load_state_dict(before)
        progress.note(f"{title} did not lower the held-out loss; it was undone")
    move(student, torch.device("cpu"))
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(learns[name])
    return {
        "train_loss": history,
        "held_out_loss": held_out,
        "distillation_kept": kept,
        "trained_on": device.type,
        "processes": processes(),
        "teacher_cache": "unused" if known is None else known.status,
        "teacher_cache_bytes": 0 if known is None else known.size,
    }


def reestimate_statistics(
    state: CompressionState,
    module: fx.GraphModule,
    batch_size: int,
    device: torch.device,
    *,
    frozen: Collection[str] = (),
) -> None:
    """Take the running statistics of all batch norms anew, from training samples as they are.

    ``module`` is on ``device``. At most ``STATISTICS_SAMPLES``, the same for the same seed. Those
    whose name is ``frozen`` stay.
    """
    if not batch_norms(module):
        return
    order = np.random.default_rng(state.seed)
    count = max(1, STATISTICS_SAMPLES // batch_size)

    def inputs() -> Iterator[Inputs]:
        samples = batches(state.data, state.data.train, state.spec, batch_size, order=order)
        for batch in islice(samples, count):
            yield to_device(device, batch)[0]

    reestimate_batch_norm(module, inputs(), frozen=frozen)


def _average(student: fx.GraphModule, decay: float) -> AveragedModel:
    with quiet():
        return AveragedModel(student, multi_avg_fn=moving_average(decay))


@torch.no_grad()
def held_out_loss(state: CompressionState, loss: Loss, device: torch.device) -> float:
    """Return the mean loss on the calibration samples, which training never sees."""
    total, count = 0.0, 0
    for batch in batches(state.data, state.data.calibration, state.spec, 64):
        inputs, targets = to_device(device, batch)
        total += float(loss(inputs, targets)) * len(inputs[0])
        count += len(inputs[0])
    return total / max(1, count)
