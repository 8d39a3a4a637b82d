import torch

from edgekd.sparse.sizes import sparse_bytes


def test_values_and_one_bit_a_place() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :4] = True
    assert sparse_bytes(mask) == 32 * 4 + 8
    assert sparse_bytes(mask[:1, :5], value_bytes=1) == 4 + 1
