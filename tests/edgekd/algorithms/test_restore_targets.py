import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_checks import logits

from edgekd.algorithms.restore_targets import restore_targets


@given(st.integers(1, 5), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_they_are_probabilities_and_keep_what_was_stored(k: int, dtype: torch.dtype) -> None:
    whole = logits().softmax(1)
    values, indices = whole.topk(k, dim=1)
    found = restore_targets(values.to(dtype), indices, 5)
    assert (found >= 0).all()
    assert found.sum(1).tolist() == pytest.approx([1] * 4, abs=1e-6)
    torch.testing.assert_close(found.gather(1, indices), values.float(), rtol=0.02, atol=1e-3)


def test_what_is_left_is_spread_evenly() -> None:
    found = restore_targets(torch.tensor([[0.6, 0.3]]), torch.tensor([[3, 1]]), 4)
    assert found[0].tolist() == pytest.approx([0.05, 0.3, 0.05, 0.6])


def test_a_sum_above_one_leaves_nothing() -> None:
    found = restore_targets(torch.tensor([[0.7, 0.5]]), torch.tensor([[0, 1]]), 3)
    assert found[0].tolist() == pytest.approx([0.7 / 1.2, 0.5 / 1.2, 0])


def test_more_than_all_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="too many"):
        restore_targets(torch.ones(1, 3), torch.tensor([[0, 1, 2]]), 2)
