"""Training a changed model to answer as the original does; stages call this after their change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgekd.algorithms.augment import augment_images
from edgekd.algorithms.kd_loss import kl_loss, relative_mse_loss
from edgekd.data.loader import Batch, batches
from edgekd.graph.canonical import canonicalize
from edgekd.graph.program import clone, output_tensors
from edgekd.progress import Progress
from edgekd.recipe import Distill
from edgekd.state import CompressionState
from edgekd.training import Inputs, Schedule, train


def distill(
    state: CompressionState,
    student: fx.GraphModule,
    options: Distill,
    progress: Progress,
    *,
    title: str,
) -> dict[str, Any]:
    """Train ``student`` in place against the original; return details for the report.

    The loss on the calibration samples, which training never sees, decides whether the training
    is kept: a student that did not gain goes back to what it was.
    """
    teacher = clone(state.teacher)
    canonicalize(teacher)
    before = copy.deepcopy(student.state_dict())
    loss = distillation_loss(student, teacher, options, classification=state.classification)
    held_out = [held_out_loss(state, loss)]
    history = train(
        [p for p in student.parameters() if p.requires_grad],
        loss,
        _epochs(state, options),
        Schedule(
            options.epochs,
            -(-len(state.data.train) // options.batch_size),
            options.learning_rate,
            max_steps=options.max_steps,
        ),
        progress,
        title=title,
    )
    held_out.append(held_out_loss(state, loss))
    kept = held_out[1] <= held_out[0]
    if not kept:
        student.load_state_dict(before)
        progress.note(f"{title} did not lower the held-out loss; it was undone")
    return {"train_loss": history, "held_out_loss": held_out, "distillation_kept": kept}


def _epochs(state: CompressionState, options: Distill) -> Callable[[], Iterator[Batch]]:
    """Return a function that starts a pass over the training samples, newly shuffled."""
    data = state.data
    order = np.random.default_rng(state.seed)
    generator = torch.Generator().manual_seed(state.seed)

    def one_epoch() -> Iterator[Batch]:
        for inputs, targets in batches(
            data, data.train, state.spec, options.batch_size, order=order
        ):
            images = augment_images(inputs[0], options.augment, generator)
            yield (images, *inputs[1:]), targets

    return one_epoch


def distillation_loss(
    student: fx.GraphModule, teacher: fx.GraphModule, options: Distill, *, classification: bool
) -> Callable[[Inputs, Tensor | None], Tensor]:
    """Return the loss of a batch: every output against the teacher's, plus labels if asked for.

    KL divergence is for the first output, which the labels index; others are compared as numbers.
    """
    use_kl = options.loss == "kl" or (options.loss == "auto" and classification)
    hard = options.hard_label_weight

    def soft(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
        terms = [relative_mse_loss(o, t) for o, t in zip(found, expected, strict=True)]
        if use_kl:
            terms[0] = kl_loss(found[0], expected[0], options.temperature)
        return torch.stack(terms).sum()

    def loss(inputs: Inputs, targets: Tensor | None) -> Tensor:
        with torch.no_grad():
            expected = output_tensors(teacher(*inputs))
        found = output_tensors(student(*inputs))
        total = soft(found, expected)
        if hard > 0 and targets is not None:
            labels = torch.nn.functional.cross_entropy(found[0], targets)
            total = (1 - hard) * total + hard * labels
        return total

    return loss


@torch.no_grad()
def held_out_loss(
    state: CompressionState, loss: Callable[[Inputs, Tensor | None], Tensor]
) -> float:
    """Return the mean loss on the calibration samples, which training never sees."""
    total, count = 0.0, 0
    for inputs, targets in batches(state.data, state.data.calibration, state.spec, 64):
        total += float(loss(inputs, targets)) * len(inputs[0])
        count += len(inputs[0])
    return total / max(1, count)
