"""What weights with zeros would take."""

from __future__ import annotations

from torch import Tensor


def sparse_bytes(mask: Tensor, value_bytes: int = 4) -> int:
    """Return the bytes of the values that stay, with one bit for every place to tell which.

    That is also the form of 2:4 in sparse tensor cores: two bits for each value, which are half of
    the places (Mishra et al., arXiv 2104.08378, section 3).
    """
    return int(mask.sum()) * value_bytes + -(-mask.numel() // 8)
