"""Distillation by recognition: which of the teacher's vectors belongs to this sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.feature_shapes import pooled
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"pooled"})


def contrastive_loss(student: Tensor, teacher: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Return the cross entropy of finding the sample's own teacher vector among the batch's.

    Needs a feature with a vector for each sample, with equal channels (a ``Projector`` makes them
    so). ``-mean_i log softmax_j(cos(s_i, t_j) / temperature)_i``: log N if nothing is known, and
    near 0 if every sample is recognised.

    Args:
        student: ``(N, C)``; tokens ``(N, T, C)`` and maps ``(N, C, H, W)`` are averaged. N >= 2.
        teacher: the same N and C; no gradient flows into it.
        temperature: of the softmax over cosines; 0.1 is our choice.

    Raises ValueError for one sample alone or unlike shapes.

    Source: the idea of Tian et al., "Contrastive Representation Distillation", ICLR 2020, arXiv
    1910.10699, with the InfoNCE form of van den Oord et al., arXiv 1807.03748, and negatives from
    the batch. The paper's loss is another one: noise contrast against 16,384 entries of a memory
    bank (memory of the paper), which wants each sample's index and a table as long as the data.
    """
    student, teacher = pooled(wide(student)), pooled(wide(teacher.detach()))
    if student.shape != teacher.shape or len(student) < 2:
        raise ValueError("contrast needs two samples or more, and as many channels as the teacher")
    similarity = F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).T
    own = torch.arange(len(student), device=student.device)
    return F.cross_entropy(similarity / temperature, own)
