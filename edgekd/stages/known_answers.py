"""What the teachers of a ``distill`` stage say of the training samples, from disk if it pays."""

from __future__ import annotations

import hashlib

import torch
from torch import fx

from edgekd.distillation.teachers import Panel
from edgekd.graph.program import digest, output_nodes
from edgekd.progress import Progress
from edgekd.stages.distill_loss import AskTeachers
from edgekd.stages.teacher_cache import Storing, TeacherOutputs, stored_views, teacher_outputs
from edgekd.state import CompressionState
from edgekd.training import Schedule
from edgekd.training_settings import DistillStage


def known_answers(
    state: CompressionState,
    options: DistillStage,
    teachers: AskTeachers,
    schedule: Schedule,
    progress: Progress,
    device: torch.device,
    *,
    title: str,
) -> TeacherOutputs | None:
    """Return what the teachers say of the training samples, where it is stored."""
    features = len(output_nodes(teachers.own)) - len(state.spec.outputs)
    identity = _identity(teachers.own, teachers.panel)
    if options.stored_views is None:
        return teacher_outputs(
            state,
            teachers,
            options,
            schedule,
            progress,
            device=device,
            title=title,
            features=features > 0,
            identity=identity,
        )
    limit = int(options.stored_gib * 2**30)
    storing = Storing(options.stored_views, limit, features, options.stored_top_k)
    return stored_views(
        state, teachers, options, storing, progress, device=device, title=title, identity=identity
    )


def _identity(own: fx.GraphModule, panel: Panel) -> str:
    """Return a hash of what all teachers together compute."""
    others = [(box.sha256, weight) for box, weight in panel.others]
    text = repr((digest(own), others, panel.own_weight, panel.temperatures))
    return hashlib.sha256(text.encode()).hexdigest()
