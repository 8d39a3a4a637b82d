"""Distillation of outputs that are no class logits: embeddings by angle, numbers by distance."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.precision import wide

NEEDS: frozenset[str] = frozenset()


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``mean(1 - cos(s, t))`` over all rows: 0 for equal directions, 2 for opposite ones.

    For embeddings that are compared by angle; how long they are does not count. A row of zeros has
    no direction and costs 1.

    Args:
        student: ``(..., D)``, D > 1.
        teacher: the same shape; no gradient flows into it.

    Raises ValueError for unlike shapes, and for D = 1, where only signs would be compared.
    """
    _check(student, teacher)
    if student.shape[-1] < 2:
        raise ValueError("an embedding of one number has no direction; compare it by distance")
    return (1 - F.cosine_similarity(wide(student), wide(teacher.detach()), dim=-1)).mean()


def scaled_smooth_l1(
    student: Tensor, teacher: Tensor, *, scale: Tensor | None = None, beta: float = 1.0
) -> Tensor:
    """Return the smooth L1 distance of ``s / scale`` and ``t / scale``, mean over everything.

    For regression: with ``d`` the scaled error it is ``d^2 / (2 beta)`` up to ``beta`` and
    ``|d| - beta / 2`` beyond, so that one wild output cannot rule the batch, as it can in
    ``relative_mse_loss``. One scale for each output makes metres and degrees comparable.

    Args:
        student: ``(N, ...)``.
        teacher: the same shape; no gradient flows into it.
        scale: of each output, a shape that broadcasts to one sample's; best the standard deviation
            over the training data (``output_scale``). By default that of the teacher's batch, which
            needs two samples. Outputs that do not vary have the scale 1.
        beta: > 0, in units of the scale.

    Raises ValueError for unlike shapes, a beta <= 0 and a batch of one without a ``scale``.

    Source: the distance is that of Girshick, "Fast R-CNN", ICCV 2015, arXiv 1504.08083, equation 3,
    with beta as in torch. The scale is ours.
    """
    _check(student, teacher)
    if beta <= 0:
        raise ValueError(f"beta is above 0, not {beta:g}")
    teacher = wide(teacher.detach())
    scale = output_scale(teacher) if scale is None else wide(scale.detach())
    return F.smooth_l1_loss(wide(student) / scale, teacher / scale, beta=beta)


def output_scale(outputs: Tensor) -> Tensor:
    """Return the standard deviation of each output over the samples, 1 where it does not vary.

    Args:
        outputs: ``(N, ...)``, N > 1, of all training samples or a batch.

    Raises ValueError for one sample.
    """
    if len(outputs) < 2:
        raise ValueError("the scale of an output needs two samples or more")
    outputs = wide(outputs)
    deviation = outputs.std(0)
    # What rounding leaves of a constant is no deviation.
    varies = deviation > 1e-6 * outputs.abs().amax(0)
    return deviation.where(varies, deviation.new_ones(()))


def _check(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        found, expected = tuple(student.shape), tuple(teacher.shape)
        raise ValueError(f"outputs are compared one by one, not {found} with {expected}")
