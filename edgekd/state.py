"""What the pipeline carries from stage to stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx

from edgekd.cache import StepCache
from edgekd.data.source import Dataset
from edgekd.device import DeviceProfile
from edgekd.distillation.teachers import BlackBox
from edgekd.exits.exit import Exit
from edgekd.export.parity import Outputs
from edgekd.metrics import Budget
from edgekd.spec import ModelSpec


@dataclass(frozen=True)
class CompressionState:
    """The model as it is now, and all that a stage may need to change it.

    ``model`` and ``teacher`` are graph modules of ATen operations; a stage returns a new state with
    a new model and never changes the one it was given. ``teacher`` is the whole network in float
    that a stage changes and learns from: the original, or what ``distill`` stages in front made of
    a student. ``original`` is the model as it came, and ``student`` the network that a ``distill``
    stage is to train; ``others`` are further teachers for it. ``cache`` is for
    what a stage computes on the way and another run can take up.
    ``key`` is the cache key of the step that is being computed, if it is to go on after a crash.
    ``original_outputs`` are the exported original's for all validation samples: what ``budget``
    compares with. ``keep_zeros``: an earlier stage has set weights to zero for good.
    ``exits`` are in the order of their depth: the model gives the logits of each behind its own
    outputs. ``classification``: the first output is class logits, and integer labels index them;
    ``dense``: it is class logits at each pixel, with labels for them; ``regression``: the targets
    are numbers, as many as it has.
    """

    model: fx.GraphModule
    teacher: fx.GraphModule
    spec: ModelSpec
    example: tuple[Tensor, ...]
    data: Dataset
    profile: DeviceProfile
    seed: int
    classification: bool
    budget: Budget = field(default_factory=Budget)
    original_outputs: Outputs = ()
    details: dict[str, Any] = field(default_factory=dict)
    cache: StepCache | None = None
    key: str | None = None
    keep_zeros: bool = False
    exits: tuple[Exit, ...] = ()
    original: fx.GraphModule | None = None
    student: fx.GraphModule | None = None
    others: tuple[BlackBox, ...] = ()
    dense: bool = False
    regression: bool = False

    @property
    def full_spec(self) -> ModelSpec:
        """Return the inputs, and all outputs that the model has now: its own and those of exits."""
        own = self.spec.outputs
        return replace(
            self.spec, outputs=(*own, *(replace(own[0], name=e.name) for e in self.exits))
        )

    def with_model(self, model: fx.GraphModule, **details: Any) -> CompressionState:
        """Return a state that holds ``model``; ``details`` go into the stage's report."""
        return replace(self, model=model, details=details)
