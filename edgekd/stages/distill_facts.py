"""What the manifest says of a ``distill`` stage: who learnt what from whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

from edgekd.loss_settings import LossSettings
from edgekd.stages.distill_loss import Learning
from edgekd.stages.distill_parts import Judge, Parts
from edgekd.stages.distill_teachers import teachers_of
from edgekd.stages.training_samples import weights_of
from edgekd.training_settings import DistillStage


def facts(
    options: DistillStage,
    losses: Sequence[LossSettings],
    learning: Learning,
    *,
    samples: int,
    original: fx.GraphModule,
    student: fx.GraphModule,
    parts: Parts,
    judge: Judge,
    label_share: Mapping[str, float] | None,
) -> dict[str, Any]:
    """Return plain data; ``samples`` were trained on, numbers of parameters are pairs."""
    trained = (p for name, p in student.named_parameters() if name not in parts.frozen)
    beside = (term.trained for term, _ in learning.terms if term.trained is not None)
    return {
        "factory": None if options.student is None else options.student.rpartition("/")[2],
        "own_weights": options.student_weights is not None,
        "losses": [entry.model_dump(mode="json") for entry in losses],
        "label_share": label_share,
        "label_weight": weights_of(options)[1],
        "training_samples": samples,
        "teacher": options.teacher,
        "teachers": teachers_of(options),
        "judged_by": judge.by,
        "parameters": [_count(original), _count(student)],
        "trained_parameters": sum(parameter.numel() for parameter in trained),
        "compared": [[tap.student, tap.teacher] for tap in learning.taps],
        "training_only_parameters": sum(_count(module) for module in beside),
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
