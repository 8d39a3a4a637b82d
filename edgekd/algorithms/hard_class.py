"""The teacher's class as a label.

Touvron et al., "Training Data-Efficient Image Transformers and Distillation through Attention",
ICML 2021, arXiv 2012.12877: hard distillation, there of a head on a token of its own.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd.algorithms.cross_entropy import matched

NEEDS = frozenset({"classes"})


def hard_class_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return ``-log softmax(s)_c``, c the class of the largest teacher logit, mean over the batch.

    In the source it has the weight 1/2, beside 1/2 of the labels' cross entropy.

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: ``(N, C)``; no gradient flows into them.
    """
    student, teacher = matched(student_logits, teacher_logits)
    return F.cross_entropy(student, teacher.argmax(-1))
