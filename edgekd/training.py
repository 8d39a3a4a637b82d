"""The training loop: stages hand it a student, a loss and a schedule.

Lightning Fabric carries it, in one process or in those that torchrun started.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from edgekd.errors import StageError
from edgekd.progress import Progress

Inputs = tuple[Tensor, ...]
Batch = tuple[Inputs, Tensor | None]
Loss = Callable[[Inputs, Tensor | None], Tensor]


def training_device() -> torch.device:
    """Return the CUDA device in use where torch sees one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """Return a context in which layers compute in 16 bits: float16 on CUDA, bfloat16 on the CPU.

    float16 keeps 11 significant bits, so that a weight on an 8-bit grid stays at its place;
    bfloat16 keeps 8 and moves it by up to a quarter of a step.
    """
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=enabled)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over the first ``warmup`` of all steps, then a cosine to zero.

    ``optimizer`` is AdamW, or SGD with Nesterov momentum of 0.9 (Sutskever et al., ICML 2013).
    Training ends after ``epochs`` passes, or earlier after ``max_steps`` optimiser steps. A
    gradient whose norm is above ``clip_norm`` is made as short as that (Pascanu et al., ICML 2013).
    """

    epochs: int
    steps_per_epoch: int
    learning_rate: float
    max_steps: int | None = None
    warmup: float = 0.05
    weight_decay: float = 0.0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    clip_norm: float | None = None

    @property
    def steps(self) -> int:
        """Number of optimiser steps in all."""
        steps = self.epochs * self.steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def factor(self, step: int) -> float:
        """Return the multiplier of the learning rate at ``step`` (from 0)."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


class Keeper(Protocol):
    """What keeps a training on disk while it runs, so that another process can go on with it."""

    def restore(self) -> dict[str, Any] | None:
        """Bring back what the training changes, the batches too; return the loop's own state."""
        ...

    def due(self) -> bool:
        """Tell whether enough time has passed to save again."""
        ...

    def save(self, loop: dict[str, Any]) -> None:
        """Store everything, with the loop's own state: tensors and plain values."""
        ...


def train(
    parameters: Iterable[nn.Parameter] | list[dict[str, object]],
    loss: Loss,
    epochs: Callable[[], Iterator[Batch]],
    schedule: Schedule,
    progress: Progress,
    *,
    title: str,
    scaler: torch.amp.GradScaler | None = None,
    after_step: Callable[[int], None] = lambda _step: None,
    keeper: Keeper | None = None,
    compiled: bool = False,
) -> list[float]:
    """Minimise ``loss`` by ``schedule``; return the mean loss of each pass, a cut one included.

    Args:
        parameters: what to train, as tensors or optimiser groups (``lr`` is relative to others).
        loss: from (inputs, targets) to a scalar with a graph.
        epochs: starts one pass over the training batches; after ``keeper.restore`` the rest of
            the pass that was interrupted.
        scaler: multiplies the loss, for gradients in float16. A step whose gradients overflow is
            left out, and the learning rate waits for the next one.
        after_step: called when the weights have changed, with the number of steps done (from 1).
        keeper: saves the training now and then, and in the end.
        compiled: let torch.compile make one program of the loss and what it calls.

    In several processes, each one calls this with the same arguments and goes through the same
    batches; ``loss`` decides what of a batch a process computes (``edgekd.processes.sharing``), and
    gradients are averaged. Weights start from those of the first process.

    Raises StageError if the loss stops being finite.
    """
    from edgekd.processes.fabric import open_fabric  # lightning_fabric takes long to import

    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    optimizer = _optimizer(parameters, schedule)
    learner = _Learner(optimizer, loss)
    fabric = open_fabric(learner.device, scaler)
    whole = cast("nn.Module", torch.compile(learner)) if compiled else learner
    step_loss, stepper = fabric.setup(whole, optimizer, move_to_device=False)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.factor)
    parts: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    # Steps left at the start of the pass, and of the pass itself: steps, samples and their loss.
    left, done, count, total = schedule.steps, 0, 0, 0.0
    history: list[float] = []
    if keeper is not None and (found := keeper.restore()) is not None:
        for name, part in parts.items():
            part.load_state_dict(found[name])
        left, done, count, total = found["left"], found["done"], found["count"], found["total"]
        history = list(found["history"])
    before = schedule.steps - left + done

    def save() -> None:
        if keeper is not None:
            loop = {"left": left, "done": done, "count": count, "total": total}
            states = {name: part.state_dict() for name, part in parts.items()}
            keeper.save({**states, **loop, "history": history})

    with progress.task(title, schedule.steps) as advance:
        if before:
            advance(before)
        while left > 0:
            for inputs, targets in islice(epochs(), left - done):
                value = step_loss(inputs, targets)
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(value)
                done += 1
                if schedule.clip_norm is not None:
                    fabric.clip_gradients(
                        step_loss, optimizer, max_norm=schedule.clip_norm, error_if_nonfinite=False
                    )
                before_step = scaler.get_scale()
                stepper.step()
                if scaler.get_scale() >= before_step:  # else a gradient overflowed
                    scheduler.step()
                    after_step(schedule.steps - left + done)
                total += float(value.detach()) * len(inputs[0])
                count += len(inputs[0])
                if not math.isfinite(total):
                    raise StageError(
                        f"training diverged in epoch {len(history) + 1}: the loss is not finite; "
                        "lower learning_rate in the recipe"
                        + (" or set mixed_precision to false" if scaler.is_enabled() else "")
                    )
                advance(1)
                if keeper is not None and keeper.due():
                    save()
            left = max(0, left - schedule.steps_per_epoch)
            history.append(total / max(1, count))
            done, count, total = 0, 0, 0.0
        save()
    return history


def _optimizer(
    parameters: Iterable[nn.Parameter] | list[dict[str, object]], schedule: Schedule
) -> torch.optim.Optimizer:
    rate, decay = schedule.learning_rate, schedule.weight_decay
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)


class _Learner(nn.Module):
    """A loss as a module with the weights that it trains, which is what an engine wraps."""

    def __init__(self, optimizer: torch.optim.Optimizer, loss: Loss):
        super().__init__()
        groups = optimizer.param_groups
        self.trained = nn.ParameterList(weight for group in groups for weight in group["params"])
        self._loss = loss

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, inputs: Inputs, targets: Tensor | None) -> Tensor:
        """Return the loss of a batch."""
        return self._loss(inputs, targets)
