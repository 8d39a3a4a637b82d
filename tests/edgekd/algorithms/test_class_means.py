import pytest
import torch
from loss_checks import logits

from edgekd.algorithms.class_means import class_means


def test_rows_are_the_means_of_their_class() -> None:
    some, labels = logits(4, 3), torch.tensor([0, 2, 0, -1])
    found = class_means(some, labels)
    probabilities = some.softmax(1)
    torch.testing.assert_close(found[0], (probabilities[0] + probabilities[2]) / 2)
    torch.testing.assert_close(found[2], probabilities[1])
    assert found[1].tolist() == pytest.approx([1 / 3] * 3)
