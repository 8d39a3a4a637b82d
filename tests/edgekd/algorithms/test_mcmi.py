import math

import pytest
import torch
import torch.nn.functional as F
from loss_checks import check_large_half_precision, logits

from edgekd.algorithms.class_means import class_means
from edgekd.algorithms.mcmi import conditional_information, mcmi_loss

LABELS = torch.tensor([0, 1, 0, 1, 2, 2])


def test_outputs_that_are_equal_within_a_class_have_no_information() -> None:
    some = logits(3)[LABELS]
    found = conditional_information(some, LABELS, class_means(some, LABELS))
    assert found.item() == pytest.approx(0, abs=1e-12)
    varied = logits(6)
    assert conditional_information(varied, LABELS, class_means(varied, LABELS)).item() > 0.01


def test_a_case_worked_out_by_hand() -> None:
    # (3/4, 1/4) and (1/4, 3/4) of one class have the mean (1/2, 1/2).
    some, labels = torch.tensor([[3.0, 1], [1, 3]]).log(), torch.tensor([0, 0])
    found = conditional_information(some, labels, class_means(some, labels))
    assert found.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_without_weight_it_is_the_cross_entropy_and_shifts_do_not_matter() -> None:
    some = logits(6)
    means = class_means(some, LABELS)
    plain = mcmi_loss(some, LABELS, means, weight=0.0)
    assert plain.item() == pytest.approx(F.cross_entropy(some, LABELS).item())
    one = mcmi_loss(some, LABELS, means, weight=0.3)
    assert mcmi_loss(some + 7, LABELS, means, weight=0.3).item() == pytest.approx(one.item())


def test_samples_without_a_label_are_left_out() -> None:
    some, labels = logits(6), torch.tensor([0, 1, -1, 1, 2, -1])
    means, kept = class_means(some, labels), labels >= 0
    found = mcmi_loss(some, labels, means)
    assert found.item() == pytest.approx(mcmi_loss(some[kept], labels[kept], means).item())
    assert mcmi_loss(some, torch.full((6,), -1), means).item() == 0


def test_steps_along_it_keep_more_information_than_those_of_the_cross_entropy() -> None:
    found = []
    for weight in (0.0, 0.5):
        some = logits(6) + 6 * F.one_hot(LABELS, 5)
        for _ in range(30):
            some = some.detach().requires_grad_()
            mcmi_loss(some, LABELS, class_means(some, LABELS), weight=weight).backward()
            assert some.grad is not None
            some = some.detach() - 0.3 * some.grad
        assert torch.equal(some.argmax(1), LABELS)
        found.append(conditional_information(some, LABELS, class_means(some, LABELS)).item())
    assert found[1] > 1.05 * found[0]


def test_sixteen_bits_are_enough() -> None:
    labels = torch.tensor([0, 1, -1, 2])
    check_large_half_precision(lambda s, t: mcmi_loss(s, labels, class_means(t, labels)))
