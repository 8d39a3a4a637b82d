"""Swing convolution: strided convolutions that look at another grid of pixels on every call.

"Swing convolution" of Jeon et al., CVPR 2023, arXiv 2212.04780. A convolution of stride 2 reads a
fixed subset of positions, so optimising images through it leaves a checkerboard that real images do
not have. Here its input is shifted at random before each call. The shift is of one pixel at most,
whatever the stride, as in the authors' released code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edgekd.graph.tensors import is_op

JITTER = 1
CENTRE = (JITTER, JITTER)


class Swing(nn.Module):
    """Shifts a batch ``(N, C, H, W)`` by -1, 0 or 1 pixel along each axis, drawn for each call.

    Pixels from beyond the border are reflected. ``offset`` fixes the draw; ``CENTRE`` is no shift.
    """

    def __init__(self, generator: torch.Generator, offset: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.generator, self.offset = generator, offset

    def forward(self, x: Tensor) -> Tensor:
        """Return the shifted batch, of the same shape."""
        height, width = x.shape[2:]
        if min(height, width) <= JITTER:  # too small to reflect
            return x
        y, x_ = self.offset or self._draw()
        padded = F.pad(x, (JITTER, JITTER, JITTER, JITTER), mode="reflect")
        return padded[:, :, y : y + height, x_ : x_ + width]

    def _draw(self) -> tuple[int, int]:
        y, x = torch.randint(0, 2 * JITTER + 1, (2,), generator=self.generator).tolist()
        return y, x


def swing_convolutions(
    module: fx.GraphModule,
    generator: torch.Generator,
    offset: tuple[int, int] | None = None,
) -> int:
    """Shift the input of every 2-D convolution with a stride above 1, in place; return how many.

    ``generator`` is the source of the shifts; ``offset`` fixes all of them.
    """
    count = 0
    for node in list(module.graph.nodes):
        if not _is_strided(node):
            continue
        name = f"swing_{count}"
        module.add_submodule(name, Swing(generator, offset))
        with module.graph.inserting_before(node):
            shifted = module.graph.call_module(name, (node.args[0],))
        node.args = (shifted, *node.args[1:])
        count += 1
    module.recompile()
    return count


def _is_strided(node: fx.Node) -> bool:
    aten = torch.ops.aten
    if not is_op(node, aten.conv2d.default, aten.conv2d.padding) or len(node.args) < 4:
        return False
    stride = node.args[3]
    steps = stride if isinstance(stride, (list, tuple)) else (stride,)
    return any(step != 1 for step in steps)
