"""Maps of several stages, each fused with what deeper stages know, for a teacher's to compare."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.algorithms.context_loss import context_loss

NEEDS = frozenset({"maps", "dense"})


class SelectiveFusion(nn.Module):
    """Fuse a student's maps from the deepest stage upwards. For training only.

    Each map goes to ``width`` channels; to it the deeper result is added in shares that a small
    network chooses for each channel (they sum to 1); a 3 x 3 convolution brings it to the teacher's
    channels. Sizes stay; unlike the teacher's they have to be made equal before the loss.

    Args:
        student_channels: of the stages, from the shallow to the deep one.
        teacher_channels: of the same stages.
        width: between; 64 in the source.

    Raises ValueError for unlike numbers of stages and fewer than two.

    It has batch norms: in training mode a batch of one image uses its places alone. Unlike in the
    released code, which has a second layer without norm for such a batch, the layer that chooses
    shares has a layer norm, so that one serves all.

    Source: Liu et al., TransKD, arXiv 2202.13393, section III (cross selective fusion), after Chen
    et al., arXiv 2104.09044, and Li et al., "Selective Kernel Networks", CVPR 2019.
    """

    def __init__(
        self, student_channels: Sequence[int], teacher_channels: Sequence[int], *, width: int = 64
    ) -> None:
        super().__init__()
        if len(student_channels) != len(teacher_channels) or len(student_channels) < 2:
            raise ValueError("fusion needs two stages or more, as many of student and teacher")
        self.enter = nn.ModuleList(_normed(c, width, 1) for c in student_channels)
        self.leave = nn.ModuleList(_normed(width, c, 3) for c in teacher_channels)
        self.choose = nn.ModuleList(_chooser(width) for _ in student_channels[1:])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return fused maps with the teacher's channels, at the sizes of ``maps``."""
        entered = [layer(x) for layer, x in zip(self.enter, maps, strict=True)]
        fused = [entered[-1]]
        for choose, x in zip(reversed(self.choose), reversed(entered[:-1]), strict=True):
            deeper = F.interpolate(fused[0], x.shape[2:], mode="nearest")
            logits: Tensor = choose((x + deeper).mean((2, 3)))
            share = logits.reshape(len(x), 2, -1, 1, 1).softmax(1)
            fused.insert(0, share[:, 0] * x + share[:, 1] * deeper)
        return [layer(x) for layer, x in zip(self.leave, fused, strict=True)]


def fusion_loss(fused: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the sum over stages of ``context_loss``; a scalar. Its weight is 1 in the source.

    Args:
        fused: ``(N, C_k, H_k, W_k)`` each, from ``SelectiveFusion``.
        teacher: the same shapes; no gradient flows into them.

    Raises ValueError for unlike shapes or numbers of stages, and without any.
    """
    if len(fused) != len(teacher) or not fused:
        raise ValueError(f"{len(fused)} maps cannot be compared with {len(teacher)}")
    return torch.stack([context_loss(*pair) for pair in zip(fused, teacher, strict=True)]).sum()


def _normed(channels: int, out: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


def _chooser(width: int) -> nn.Sequential:
    sizes = (width, max(width // 16, 32), 2 * width)
    first, second = (nn.Linear(*pair) for pair in pairwise(sizes))
    return nn.Sequential(first, nn.LayerNorm(sizes[1]), nn.ReLU(), second)
