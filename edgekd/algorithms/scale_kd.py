"""Distillation of a strong transformer's last map in two views: as it is, and without its mean.

Source of both: Fan et al., "ScaleKD", NeurIPS 2024, arXiv 2411.06786, section 3, and the authors'
code. Their third part, which sends the student's features through the teacher's frozen last stage,
is no arithmetic but a cut through the teacher: ``AttentionProjector`` takes the ``query`` that it
makes, the rest is wiring and is not here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.algorithms.feature_shapes import resized, tokens_of_map
from edgekd.algorithms.precision import wide

NEEDS = frozenset({"maps"})  # a transformer's tokens are a map as well


def dual_view_loss(
    direct: Tensor, centred: Tensor, teacher: Tensor, *, weights: tuple[float, float] = (0.08, 0.06)
) -> Tensor:
    """Return the two-view loss of projected maps; sum over places, mean over the batch.

    Needs maps with the teacher's channels and size. With n(.) the L2 normalisation over the
    channels of each place, and m(.) the removal of each channel's mean over the places,
    ``weights[0] sum |n(direct) - n(t)|^2 + weights[1] sum |n(m(centred)) - n(m(t))|^2``.

    Args:
        direct: ``(N, C, H, W)``, of one projector.
        centred: ``(N, C, H, W)``, of another one; what it gives has no mean yet removed.
        teacher: ``(N, C, H, W)``, of its last stage; no gradient flows into it.
        weights: of the two views. The source's are for 7 x 7 places; for others keep
            weight * H * W, since the loss is a sum over the places.

    Raises ValueError where the shapes differ.

    The code of the source zeroes the constant term of a cosine transform of each channel and
    inverts it: that is the removal of the mean, which needs no transform.
    """
    if not direct.shape == centred.shape == teacher.shape:
        raise ValueError("the two views need maps of the teacher's shape")
    direct, centred, teacher = (wide(x) for x in (direct, centred, teacher.detach()))
    views = (_distance(direct, teacher), _distance(without_mean(centred), without_mean(teacher)))
    return weights[0] * views[0] + weights[1] * views[1]


def without_mean(maps: Tensor) -> Tensor:
    """Return maps ``(N, C, H, W)`` less each channel's mean over its places."""
    return maps - maps.mean((2, 3), keepdim=True)


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    difference = F.normalize(student, dim=1) - F.normalize(teacher, dim=1)
    return difference.square().sum() / len(teacher)


class AttentionProjector(nn.Module):
    """Map a student's map to the teacher's grid and channels by cross attention, for training only.

    The student's map, through a 3x3 convolution and with learned positions, is keys and values;
    the queries are learned, one for each place of the teacher's grid, and so find by themselves
    which part of the student's map they want.

    Args:
        student_channels: of the map that comes in.
        teacher_channels: of the map that goes out; a multiple of ``heads``.
        grid: height and width of the map that goes out.
        heads: of the attention; 8 in the source.
        sharpness: factor of the scores before the softmax, besides 1/sqrt(d). The source's
            configurations have 5 for some pairs, its default is 1.

    Raises ValueError for channels that the heads cannot share.

    Our reading where the authors' attention could not be read: attention goes over the whole map
    (theirs goes over windows) and has no residual. A feed-forward layer of 4 times the width
    follows, with a residual around it, as in their code.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        grid: tuple[int, int],
        *,
        heads: int = 8,
        sharpness: float = 1.0,
    ) -> None:
        super().__init__()
        if teacher_channels % heads:
            raise ValueError(f"{heads} heads cannot share {teacher_channels} channels")
        self.grid, self.heads = grid, heads
        self.scale = sharpness * (teacher_channels // heads) ** -0.5
        self.enter = nn.Sequential(
            nn.Conv2d(student_channels, student_channels, 3, padding=1),
            nn.BatchNorm2d(student_channels),
            nn.ReLU(),
        )
        self.places = nn.Parameter(torch.empty(1, student_channels, *grid))
        nn.init.trunc_normal_(self.places, std=0.02)
        self.query = nn.Parameter(torch.randn(1, grid[0] * grid[1], teacher_channels))
        self.ask = nn.Sequential(nn.Linear(teacher_channels, teacher_channels), nn.ReLU())
        self.to_query = nn.Linear(teacher_channels, teacher_channels)
        self.to_key = nn.Linear(student_channels, teacher_channels)
        self.to_value = nn.Linear(student_channels, teacher_channels)
        self.leave = nn.Linear(teacher_channels, teacher_channels)
        self.norm = nn.LayerNorm(teacher_channels)
        self.feed_forward = nn.Sequential(
            nn.Linear(teacher_channels, 4 * teacher_channels),
            nn.ReLU(),
            nn.Linear(4 * teacher_channels, teacher_channels),
        )

    def forward(self, maps: Tensor, query: Tensor | None = None) -> Tensor:
        """Return ``(N, teacher_channels, *grid)``.

        Args:
            maps: the student's ``(N, student_channels, H, W)``, resized to the grid if need be.
            query: ``(N, H' * W', teacher_channels)`` instead of the learned queries.
        """
        tokens = tokens_of_map(self.enter(resized(maps, self.grid)) + self.places)
        asked = self.ask(self.query.expand(len(maps), -1, -1) if query is None else query)
        parts = (self.to_query(asked), self.to_key(tokens), self.to_value(tokens))
        q, k, v = (x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        found: Tensor = self.norm(self.leave(mixed.transpose(1, 2).flatten(2)))
        found = found + self.feed_forward(found)
        return found.transpose(1, 2).reshape(len(found), -1, *self.grid)
