"""Distillation of the patch embeddings of transformers with several stages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.algorithms.precision import wide

NEEDS = frozenset({"tokens", "dense"})
STAGE_WEIGHTS = (0.1, 0.1, 0.5, 1.0)


def patch_embedding_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    weights: Sequence[float] = STAGE_WEIGHTS,
) -> Tensor:
    """Return ``sum_k w_k MSE(e_k, t_k)`` over the stages' patch embeddings; a scalar.

    Needs transformers with as many stages and as many patches in each (SegFormer, PVT).

    Args:
        student: ``(N, T_k, C_k)`` each, from ``PatchEmbeddingProjectors``.
        teacher: the same shapes; no gradient flows into them.
        weights: of the stages; the last ones carry what places mean.

    Raises ValueError for unlike shapes or numbers of stages.

    Source: Liu et al., "TransKD: Transformer Knowledge Distillation for Efficient Semantic
    Segmentation", T-ITS 2024, arXiv 2202.13393, section III (patch embedding alignment), with the
    weights of the released code. Its mixers of local and global tokens are left out.
    """
    if not len(student) == len(teacher) == len(weights) or not weights:
        raise ValueError(
            f"{len(student)} embeddings, {len(teacher)} of the teacher and {len(weights)} weights "
            "are not one for each stage"
        )
    losses = []
    for found, expected, weight in zip(student, teacher, weights, strict=True):
        if found.shape != expected.shape:
            shapes = f"{tuple(found.shape)} with {tuple(expected.shape)}"
            raise ValueError(f"patches are compared one by one, not {shapes}")
        losses.append(weight * F.mse_loss(wide(found), wide(expected.detach())))
    return torch.stack(losses).sum()


class PatchEmbeddingProjectors(nn.Module):
    """A linear layer for each stage, to the teacher's channels. For training only.

    Args:
        student_channels: of the stages.
        teacher_channels: of the stages, as many.
    """

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        super().__init__()
        pairs = zip(student_channels, teacher_channels, strict=True)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairs)

    def forward(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """Return one ``(N, T_k, C_k)`` a stage, with the teacher's channels."""
        pairs = zip(self.layers, embeddings, strict=True)
        return [layer(embedding) for layer, embedding in pairs]
