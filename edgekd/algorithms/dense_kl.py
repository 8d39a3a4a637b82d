"""Distillation of class logits at every pixel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.precision import wide

NEEDS = frozenset({"classes", "dense"})


def dense_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    valid: Tensor | None = None,
) -> Tensor:
    """Return ``T^2 * KL(softmax(t / T) || softmax(s / T))`` over classes, mean over valid pixels.

    Needs class logits at every pixel. The mean is over all the batch's pixels together, as in the
    cross entropy of segmentation: an image with few valid pixels weighs less. 0 without any.

    Args:
        student_logits: ``(N, C, H, W)``.
        teacher_logits: the same shape; no gradient flows into them. What they hold at pixels that
            do not count, NaN too, has no influence, and the same is true of the student's.
        temperature: T > 0.
        valid: bool ``(N, H, W)``, which pixels count; all by default. For labels with 255 or -1
            where nobody looked it is ``labels != 255``; a teacher has something to say there too.

    Raises ValueError for unlike shapes and T <= 0.

    Source: Hinton et al., arXiv 1503.02531, section 2, at each pixel: Liu et al., "Structured
    Knowledge Distillation for Semantic Segmentation", CVPR 2019, arXiv 1903.04197 (pixel-wise).
    """
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 4:
        found, expected = tuple(student_logits.shape), tuple(teacher_logits.shape)
        raise ValueError(f"pixels are compared one by one, not {found} with {expected}")
    if temperature <= 0:
        raise ValueError(f"the temperature is above 0, not {temperature:g}")
    student, teacher = (wide(x).movedim(1, -1) for x in (student_logits, teacher_logits.detach()))
    if valid is not None:
        if valid.shape != student.shape[:-1]:
            raise ValueError(
                f"the mask of pixels has the shape {tuple(student.shape[:-1])}, "
                f"not {tuple(valid.shape)}"
            )
        student, teacher = student[valid], teacher[valid]
    log_p = F.log_softmax(student / temperature, dim=-1)
    log_q = F.log_softmax(teacher / temperature, dim=-1)
    total = F.kl_div(log_p, log_q, reduction="sum", log_target=True)
    pixels = max(log_p.numel() // log_p.shape[-1], 1)
    return total / pixels * temperature**2
