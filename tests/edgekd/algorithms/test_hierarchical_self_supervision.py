import math

import pytest
import torch
import torch.nn.functional as F
from networks import samples

from edgekd.algorithms.hierarchical_self_supervision import branch_loss, hierarchical_loss
from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.label_augmentation import JointHead, joint_labels

LABELS = torch.tensor([2, 0])


def logits(seed: int = 0, rows: int = 8) -> torch.Tensor:
    return samples(rows, 3, seed=seed).double()


def branches(seed: int) -> list[torch.Tensor]:
    return [samples(8, 12, seed=seed + i).double() for i in range(2)]


def test_it_is_the_sum_of_its_parts() -> None:
    pairs = zip(branches(2), branches(4), strict=True)
    expected = F.cross_entropy(logits()[[0, 4]], LABELS) + kl_loss(logits(), logits(1), 3.0)
    expected = expected + sum(kl_loss(s, t, 3.0) for s, t in pairs)
    found = hierarchical_loss(
        logits(),
        logits(1),
        student_branches=branches(2),
        teacher_branches=branches(4),
        labels=LABELS,
    )
    assert found.item() == pytest.approx(expected.item())


def test_without_branches_and_turns_it_is_plain_distillation() -> None:
    student, teacher = logits(0, 2), logits(1, 2)
    found = hierarchical_loss(
        student, teacher, student_branches=(), teacher_branches=(), labels=LABELS, transforms=1
    )
    expected = F.cross_entropy(student, LABELS) + kl_loss(student, teacher, 3.0)
    assert found.item() == pytest.approx(expected.item())


def test_the_teacher_gets_no_gradient_and_unlabelled_samples_distil() -> None:
    student, teacher = logits().requires_grad_(), logits(1).requires_grad_()
    mine = [x.requires_grad_() for x in branches(2)]
    theirs = [x.requires_grad_() for x in branches(4)]
    nothing = torch.tensor([-1, -1])
    hierarchical_loss(
        student, teacher, student_branches=mine, teacher_branches=theirs, labels=nothing
    ).backward()
    assert all(x.grad.abs().max() > 1e-4 for x in (student, *mine))
    assert all(x.grad is None for x in (teacher, *theirs))
    assert all(x.grad.sum(1).abs().max() < 1e-12 for x in (student, *mine))


def test_branches_are_trained_with_joint_labels_and_reach_the_backbone() -> None:
    feature = samples(8, 5, 2, 2).requires_grad_()
    found = branch_loss(
        [head(feature) for head in (JointHead(5, 3), JointHead(5, 3))], labels=LABELS
    )
    found.backward()
    assert feature.grad.abs().max() > 0
    expected = sum(F.cross_entropy(x, joint_labels(LABELS)) for x in branches(2))
    assert branch_loss(branches(2), labels=LABELS).item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="no branch"):
        branch_loss([], labels=LABELS)


def test_unlike_numbers_of_branches_are_refused() -> None:
    with pytest.raises(ValueError, match="1 branches"):
        hierarchical_loss(
            logits(),
            logits(1),
            student_branches=branches(2)[:1],
            teacher_branches=branches(4),
            labels=LABELS,
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_stay_finite(dtype: torch.dtype) -> None:
    found = hierarchical_loss(
        (60 * logits()).to(dtype),
        (60 * logits(1)).to(dtype),
        student_branches=[(60 * x).to(dtype) for x in branches(2)],
        teacher_branches=[(60 * x).to(dtype) for x in branches(4)],
        labels=LABELS,
    )
    assert found.dtype == torch.float32 and math.isfinite(found.item())
