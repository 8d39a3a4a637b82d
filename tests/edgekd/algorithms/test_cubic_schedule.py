import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.algorithms.cubic_schedule import cubic_sparsity


def test_ends_and_middle() -> None:
    assert cubic_sparsity(0.0, 0.8, 0.1) == pytest.approx(0.1)
    assert cubic_sparsity(0.5, 0.8) == pytest.approx(0.8 - 0.8 / 8)
    assert cubic_sparsity(1.0, 0.8) == cubic_sparsity(3.0, 0.8) == 0.8
    assert cubic_sparsity(-1.0, 0.8) == 0.0


@given(a=st.floats(0, 1), b=st.floats(0, 1), final=st.floats(0, 0.99))
def test_sparsity_never_falls(a: float, b: float, final: float) -> None:
    low, high = sorted((a, b))
    assert cubic_sparsity(low, final) <= cubic_sparsity(high, final) + 1e-12
