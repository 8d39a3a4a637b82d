"""Two losses that share a network: what of the second one works against the first is left out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Gradients = Sequence[Tensor | None]


def align_gradients(first: Gradients, second: Gradients) -> list[Tensor | None]:
    """Return the second gradients without their component against the first ones.

    With g1 and g2 the two lists, each as one long vector: if <g1, g2> < 0 it is
    ``g2 - <g1, g2> / |g1|^2 g1``, otherwise g2. Then a step along g1 + result never raises the
    first loss to first order. g1 is not changed.

    Args:
        first: a gradient for every parameter, None where the loss does not use it.
        second: the same parameters in the same order.

    Raises ValueError if the lists differ in length.

    Source: Yang et al., "Dual-Head Knowledge Distillation", arXiv 2411.08937 (gradient
    alignment), over all parameters of the student as in the released code; the projection is
    that of Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, arXiv 2001.06782.
    """
    if len(first) != len(second):
        raise ValueError(f"gradients of {len(first)} and of {len(second)} parameters do not align")
    shared = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not shared:
        return list(second)
    product = torch.stack([(a.double() * b.double()).sum() for a, b in shared]).sum()
    norm = torch.stack([a.double().square().sum() for a in first if a is not None]).sum()
    # 0 for gradients that agree, and for a first gradient of zeros, whose product is 0 as well.
    factor = product.clamp_max(0) / norm.clamp_min(torch.finfo(torch.float64).tiny)
    return [_less(a, b, factor) for a, b in zip(first, second, strict=True)]


def _less(first: Tensor | None, second: Tensor | None, factor: Tensor) -> Tensor | None:
    if first is None:
        return second
    scaled = first * factor.to(first.dtype)
    return -scaled if second is None else second - scaled
