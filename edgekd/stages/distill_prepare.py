"""What losses of the distill stage take from the teacher before the training starts."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch
from torch import Tensor, fx

from edgekd.algorithms.feature_shapes import pooled
from edgekd.data.loader import batches
from edgekd.errors import StageError
from edgekd.graph.program import output_nodes
from edgekd.graph.taps import with_outputs
from edgekd.stages.distill_loss import Learning
from edgekd.stages.distillation_loss import folded, run
from edgekd.state import CompressionState

SAMPLES = 16384  # at most, drawn from the training samples by the seed
BATCH = 64


@torch.no_grad()
def prepare_terms(
    state: CompressionState, teacher: fx.GraphModule, learning: Learning, device: torch.device
) -> None:
    """Show the original's answers to the terms that ask for them.

    Raises StageError, with the reason, where a term cannot be made of them.
    """
    asking = [index for index, (term, _) in enumerate(learning.terms) if term.prepare is not None]
    if not asking:
        return
    module = folded(with_outputs(teacher, [tap.teacher for tap in learning.taps]))
    own = len(output_nodes(teacher))
    order = np.random.default_rng(state.seed)
    drawn = batches(state.data, state.data.train, state.spec, BATCH, order=order)
    rows: list[list[Tensor]] = []
    for inputs, labels in islice(drawn, SAMPLES // BATCH):
        assert labels is not None  # such terms need labels
        answers = run(module, tuple(x.to(device) for x in inputs))
        rows.append([labels, answers[0].cpu(), *(pooled(x).cpu() for x in answers[own:])])
    labels, logits, *features = (torch.cat(parts) for parts in zip(*rows, strict=True))
    for index in asking:
        term, _ = learning.terms[index]
        part = learning.parts[index] if learning.parts else ()
        assert term.prepare is not None
        try:
            term.prepare(logits, labels, [features[i] for i in part])
        except ValueError as error:
            raise StageError(f"distill: losses[{index}]: {error}") from None
