import torch

from edgekd.algorithms.precision import wide


def test_sixteen_bits_become_wide_and_what_is_wide_stays() -> None:
    assert wide(torch.ones(1, dtype=torch.float16)).dtype == torch.float32
    assert wide(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert wide(torch.ones(1, dtype=torch.float64)).dtype == torch.float64
