import math

import pytest
import torch
from loss_checks import check_large_half_precision, logits

from edgekd.algorithms.cross_entropy import (
    label_cross_entropy,
    label_mask,
    matched,
    soft_cross_entropy,
)


def test_samples_without_a_label_are_left_out() -> None:
    some = logits(3)
    labels = torch.tensor([2, -1, 0])
    expected = -(some[0].log_softmax(0)[2] + some[2].log_softmax(0)[0]) / 2
    assert label_cross_entropy(some, labels).item() == pytest.approx(expected.item())
    assert label_cross_entropy(some, torch.full((3,), -1)).item() == 0
    other = label_cross_entropy(some, torch.tensor([2, 255, 0]), ignore_index=255)
    assert other.item() == pytest.approx(expected.item())


def test_the_mask_marks_the_label_and_nothing_else() -> None:
    found = label_mask(torch.tensor([1, -1]), 3)
    assert found.tolist() == [[False, True, False], [False, False, False]]


def test_soft_targets_by_hand() -> None:
    value = soft_cross_entropy(torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.5, 0.5]]))
    assert value.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)


def test_a_loss_of_unequal_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        matched(torch.zeros(2, 3), torch.zeros(1, 3))


def test_sixteen_bits_are_enough() -> None:
    check_large_half_precision(lambda s, t: soft_cross_entropy(s, t.softmax(-1)))
