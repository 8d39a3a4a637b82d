import pytest
import torch

from edgekd.algorithms.precision import wide


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sixteen_bits_widen_and_nothing_narrows(dtype: torch.dtype) -> None:
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert wide(torch.ones(2, dtype=dtype)).dtype == expected
