import pytest
import torch
import torch.nn.functional as F
from loss_checks import check_gradient, check_large_half_precision, check_shift_invariance, logits

from edgekd.algorithms.ferkd import adapted_targets, ferkd_loss

LABELS = torch.tensor([1, 0, 3, 2])


def test_every_band_has_its_own_target() -> None:
    teacher = torch.tensor(
        [
            [0.28, 0.24, 0.24, 0.24],  # below the lowest: dropped
            [0.40, 0.30, 0.20, 0.10],  # between lowest and middle: the label, softened
            [0.40, 0.30, 0.20, 0.10],  # the same without a label: the teacher's
            [0.70, 0.10, 0.10, 0.10],  # the teacher's
            [0.97, 0.01, 0.01, 0.01],  # above the highest: dropped
        ]
    )
    labels = torch.tensor([0, 2, -1, 1, 0])
    targets, kept = adapted_targets(
        teacher, labels, lowest=0.3, middle=0.5, highest=0.95, smoothing=0.3
    )
    assert kept.tolist() == [False, True, True, True, False]
    assert targets[1].tolist() == pytest.approx([0.1, 0.1, 0.7, 0.1])
    assert torch.equal(targets[2], teacher[2]) and torch.equal(targets[3], teacher[3])
    assert targets.sum(1).tolist() == pytest.approx([1] * 5)


def test_the_widest_band_is_plain_distillation() -> None:
    student, teacher = logits(), logits(seed=1)
    found = ferkd_loss(student, teacher, labels=LABELS, lowest=0, middle=0)
    assert found.item() == pytest.approx(F.cross_entropy(student, teacher.softmax(1)).item())


def test_a_teacher_that_is_never_trusted_gives_softened_labels() -> None:
    student, teacher = logits(), logits(seed=1)
    found = ferkd_loss(student, teacher, labels=LABELS, lowest=0, middle=1.1, smoothing=0.2)
    # torch spreads its smoothing over all five classes, ours over the four others.
    expected = F.cross_entropy(student, LABELS, label_smoothing=0.2 * 5 / 4)
    assert found.item() == pytest.approx(expected.item())


def test_dropped_crops_do_not_count_and_none_kept_cost_nothing() -> None:
    student = logits(2).requires_grad_()
    teacher = torch.tensor([[0.0] * 5, [9.0, 0, 0, 0, 0]]).double()
    found = ferkd_loss(student, teacher, labels=LABELS[:2], lowest=0.3)
    expected = F.cross_entropy(student[1:], teacher[1:].softmax(1))
    assert found.item() == pytest.approx(expected.item())
    found.backward()
    assert student.grad is not None and student.grad[0].abs().max() == 0
    assert ferkd_loss(student, teacher[:1].expand(2, 5), labels=LABELS[:2], lowest=0.3) == 0


def test_bands_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="order"):
        adapted_targets(torch.ones(1, 2) / 2, torch.tensor([0]), lowest=0.5, middle=0.2)


def test_what_every_loss_is_to_hold() -> None:
    def loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return ferkd_loss(student, teacher, labels=LABELS[: len(student)], middle=0.6)

    check_shift_invariance(loss)
    check_large_half_precision(loss)
    check_gradient(loss)
