import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.label_augmentation import (
    JointHead,
    aggregate,
    joint_labels,
    label_augmentation_distillation_loss,
    label_augmentation_loss,
    rotations,
)

LABELS = torch.tensor([2, 0])


def joint(seed: int = 0, transforms: int = 4) -> torch.Tensor:
    return samples(2 * transforms, 3 * transforms, seed=seed).double()


def single(seed: int = 5) -> torch.Tensor:
    return samples(2, 3, seed=seed).double()


def test_copies_of_an_image_stand_together_the_plain_one_first() -> None:
    images = samples(2, 1, 3, 3)
    turned = rotations(images)
    assert turned.shape == (8, 1, 3, 3)
    assert torch.equal(turned[::4], images)
    for turns in range(4):
        assert torch.equal(turned[4 + turns], images[1].rot90(turns, (1, 2)))
    with pytest.raises(ValueError, match="quarter"):
        rotations(samples(1, 1, 2, 3))


@given(st.lists(st.integers(-1, 9), min_size=1, max_size=5), st.integers(1, 6))
def test_joint_labels_tell_class_and_transformation(labels: list[int], transforms: int) -> None:
    found = joint_labels(torch.tensor(labels), transforms).reshape(-1, transforms)
    for label, row in zip(labels, found.tolist(), strict=True):
        if label < 0:
            assert row == [-1] * transforms
        else:
            assert [x // transforms for x in row] == [label] * transforms
            assert [x % transforms for x in row] == list(range(transforms))


def test_the_aggregate_is_the_mean_of_strided_slices() -> None:
    logits = joint()
    expected = sum(logits[i::4, i::4] for i in range(4)) / 4
    assert torch.allclose(aggregate(logits), expected)
    assert torch.equal(aggregate(logits, 1), logits)
    with pytest.raises(ValueError, match="copies"):
        aggregate(logits, 5)


def test_with_one_transformation_it_is_the_cross_entropy() -> None:
    found = label_augmentation_loss(single(), LABELS, transforms=1)
    assert found.item() == pytest.approx(F.cross_entropy(single(), LABELS).item())


def test_a_case_worked_out_by_hand() -> None:
    # Two copies, two classes, all logits 0 but the single head's (ln 3, 0): log 4 for the joint
    # labels, -log 3/4 for the label 0, and the KL from the even aggregate.
    found = label_augmentation_distillation_loss(
        torch.tensor([[math.log(3), 0.0]]),
        torch.zeros(2, 4),
        labels=torch.tensor([0]),
        transforms=2,
    )
    divergence = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert found.item() == pytest.approx(math.log(4) - math.log(0.75) + divergence, rel=1e-5)


def test_the_distillation_sends_nothing_into_the_joint_head() -> None:
    student, both = single().requires_grad_(), joint().requires_grad_()
    label_augmentation_distillation_loss(student, both, labels=LABELS).backward()
    alone = joint().requires_grad_()
    label_augmentation_loss(alone, LABELS).backward()
    assert torch.equal(both.grad, alone.grad)
    assert student.grad.sum(1).abs().max() < 1e-12 and student.grad.abs().max() > 1e-3


@given(st.floats(-20, 20))
def test_adding_a_constant_to_the_logits_changes_nothing(shift: float) -> None:
    plain = label_augmentation_distillation_loss(single(), joint(), labels=LABELS).item()
    moved = label_augmentation_distillation_loss(
        single() + shift, joint() - shift, labels=LABELS
    ).item()
    assert moved == pytest.approx(plain, rel=1e-6)


def test_samples_without_a_label_only_distil() -> None:
    nothing = torch.tensor([-1, -1])
    found = label_augmentation_distillation_loss(single(), joint(), labels=nothing, temperature=2.0)
    assert found.item() == pytest.approx(kl_loss(single(), aggregate(joint()), 2.0).item())
    half = label_augmentation_loss(joint(), torch.tensor([2, -1])).item()
    assert half == pytest.approx(label_augmentation_loss(joint()[:4], LABELS[:1]).item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_stay_finite(dtype: torch.dtype) -> None:
    found = label_augmentation_distillation_loss(
        (60 * single()).to(dtype), (60 * joint()).to(dtype), labels=LABELS
    )
    assert found.dtype == torch.float32 and math.isfinite(found.item())


def test_unlike_numbers_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="aggregate"):
        label_augmentation_distillation_loss(single()[:, :2], joint(), labels=LABELS)


@pytest.mark.parametrize("shape", [(2, 5, 3, 3), (2, 7, 5), (2, 5)])
def test_a_head_takes_any_feature(shape: tuple[int, ...]) -> None:
    feature = samples(*shape).requires_grad_()
    logits = JointHead(5, 3)(feature)
    assert logits.shape == (2, 12)
    logits.square().sum().backward()
    assert feature.grad.abs().max() > 0
