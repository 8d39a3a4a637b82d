"""Who teaches in a ``distill`` stage: the original, files, and how sure all of them are."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, fx

from edgekd.algorithms.several_teachers import entropy_temperatures
from edgekd.data.loader import batches
from edgekd.distillation.teachers import Panel
from edgekd.graph.program import output_tensors
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage


def teachers_of(options: DistillStage) -> int:
    """Return how many teachers there are, the original among them if it has a weight."""
    return (options.original_weight > 0) + len(options.teachers)


@torch.no_grad()
def panel_of(
    state: CompressionState, options: DistillStage, own: fx.GraphModule, device: torch.device
) -> Panel:
    """Return all teachers, with temperatures from the calibration samples where asked for."""
    boxes = {box.file: box for box in state.others}
    others = [(boxes[entry.file], entry.weight) for entry in options.teachers]
    panel = Panel(others, options.original_weight, state.classification, dense=state.dense)
    if not (options.balance_teachers and others and state.classification):
        return panel
    answers: list[list[Tensor]] = []
    for inputs, _ in batches(state.data, state.data.calibration, state.spec, 64):
        first = output_tensors(own(*(x.to(device) for x in inputs)))[:1]
        answers.append([answer.cpu() for answer in panel.ask(first, inputs)])
    logits = [torch.cat(parts) for parts in zip(*answers, strict=True)]
    return replace(panel, temperatures=entropy_temperatures(logits))
