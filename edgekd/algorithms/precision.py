"""The float type that losses are computed in, whatever the networks run in."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is where it is float64.

    Squares and exponentials of 16 bits overflow. Autocast narrows matrix products whatever they are
    given, so that losses with such products belong outside its region.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))
