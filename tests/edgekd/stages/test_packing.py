from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekd.stages.packing import Packing


def answers() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(6, 7), torch.arange(12).reshape(6, 2), torch.randn(6, 2, 3, 3) * 100]


def test_outputs_are_exact_and_features_to_eleven_bits() -> None:
    logits, numbers, feature = answers()
    packing = Packing(outputs=2)
    stored = packing.pack([logits, numbers, feature])
    assert stored[2].dtype == "float16"
    first, second, third = packing.unpack(stored)
    assert torch.equal(first, logits) and torch.equal(second, numbers)
    assert third.dtype == torch.float32
    torch.testing.assert_close(third, feature, rtol=2**-11, atol=1e-6)


def test_a_feature_beyond_float16_becomes_its_largest_number() -> None:
    (_, found) = Packing(1).unpack(Packing(1).pack([torch.zeros(1, 1), torch.tensor([[-1e6]])]))
    assert found.item() == -65504


@given(st.integers(1, 9))
def test_the_likeliest_classes_keep_their_probabilities(top_k: int) -> None:
    logits = answers()[0]
    packing = Packing(1, top_k, 7)
    stored = packing.pack([logits])
    kept = min(top_k, 7)
    assert [array.shape for array in stored] == [(6, kept)] * 2
    (found,) = packing.unpack(stored)
    wanted, probabilities = logits.softmax(1), found.softmax(1)
    places = logits.topk(kept).indices
    torch.testing.assert_close(probabilities.sum(1), torch.ones(6))
    torch.testing.assert_close(
        probabilities.gather(1, places), wanted.gather(1, places), rtol=2e-3, atol=1e-3
    )
    rest = torch.ones_like(wanted).scatter(1, places, 0.0).bool()
    if kept < 6:
        others = probabilities[rest].reshape(6, -1)
        assert (others - others[:, :1]).abs().max() < 1e-6, "what is left is shared evenly"


def test_no_probability_is_without_a_logarithm() -> None:
    packing = Packing(1, 1, 3)
    (found,) = packing.unpack(packing.pack([torch.tensor([[100.0, 0.0, 0.0]])]))
    assert torch.isfinite(found).all() and found.softmax(1)[0, 0] == pytest.approx(1.0)
