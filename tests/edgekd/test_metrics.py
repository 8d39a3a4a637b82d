import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.metrics import (
    compare,
    compare_outputs,
    drop_points,
    expected_calibration_error,
    is_classification,
    is_dense,
    mean_cosine,
    mean_iou,
)

LOGITS = np.eye(4, dtype=np.float32)
numbers = st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3)


def test_top1_agreement_and_flips_by_hand() -> None:
    labels = np.array([0, 1, 2, 0])  # the original has the last one wrong
    changed = LOGITS.copy()
    changed[1], changed[3] = [2, 0, 0, 0], [9, 0, 0, 0]  # loses the second, wins the last
    found = compare(changed, LOGITS, labels)
    assert (found.metric, found.value, found.samples) == ("top1", 0.75, 4)
    assert (found.agreement, found.negative_flips, found.max_difference) == (0.5, 0.25, 9.0)
    assert found.positive_flips == 0.25
    assert drop_points(found, compare(LOGITS, LOGITS, labels)) == 0.0


@pytest.mark.parametrize(
    ("targets", "shape", "expected"),
    [
        (np.array([0, 3]), (2, 4), True),
        (np.array([0, 4]), (2, 4), False),
        (np.array([-1, 3]), (2, 4), False),
        (np.array([0.0, 3.0]), (2, 4), False),
        (np.array([[0], [3]]), (2, 4), False),
        (np.array([0, 3]), (2, 4, 1), False),
        (np.array([], dtype=np.int64), (0, 4), False),
        (None, (2, 4), False),
    ],
)
def test_what_counts_as_classification(targets, shape, expected: bool) -> None:
    assert is_classification(targets, np.zeros(shape, np.float32)) == expected


def test_regression() -> None:
    targets = np.array([[1.0], [2.0], [3.0]])
    assert compare(targets, targets, targets).value == 1.0
    mean = compare(np.full((3, 1), 2.0), targets, targets[:, 0])
    assert (mean.metric, mean.value, mean.agreement) == ("r2", 0.0, None)
    assert compare(targets + 1, targets, np.ones((3, 1))).value == 0.0
    assert compare(np.ones((3, 1)), targets, np.ones((3, 1))).value == 1.0


def test_mean_iou_and_right_pixels_by_hand() -> None:
    labels = np.array([[[0, 0, 1], [1, 255, -1]]])
    predicted = np.array([[[0, 1, 1], [1, 2, 0]]])
    logits = np.eye(4)[predicted].transpose(0, 3, 1, 2).astype(np.float32)
    found = compare(logits, logits[:, [1, 0, 2, 3]], labels)
    # Class 0: 1 of 2; class 1: 2 of 3; no labelled pixel has anything to do with the others.
    assert (found.metric, found.value) == ("miou", pytest.approx((1 / 2 + 2 / 3) / 2))
    assert (found.pixel_accuracy, found.agreement) == (0.75, pytest.approx(1 / 6))
    assert (found.negative_flips, found.calibration_error) == (None, None)


@pytest.mark.parametrize(
    ("targets", "shape", "expected"),
    [
        (np.zeros((2, 3, 3), int), (2, 4, 3, 3), True),
        (np.full((2, 3, 3), 4), (2, 4, 3, 3), False),
        (np.full((2, 3, 3), 255), (2, 4, 3, 3), False),
        (np.zeros((2, 3, 3), int), (2, 1, 3, 3), False),
        (np.zeros((2, 3, 3), int), (2, 4, 6, 6), False),
        (np.zeros((2, 3, 3)), (2, 4, 3, 3), False),
        (np.zeros(2, int), (2, 4, 3, 3), False),
        (None, (2, 4, 3, 3), False),
    ],
)
def test_what_counts_as_classes_at_each_pixel(targets, shape, expected: bool) -> None:
    assert is_dense(targets, np.zeros(shape, np.float32)) == expected


@given(st.integers(0, 1000), st.integers(2, 5))
def test_mean_iou_is_a_share_and_1_for_the_labels_themselves(seed: int, classes: int) -> None:
    labels, other = np.random.default_rng(seed).integers(0, classes, (2, 3, 4, 4))
    assert mean_iou(labels, labels, classes) == (1.0, 1.0)
    iou, accuracy = mean_iou(other, labels, classes)
    assert 0 <= iou <= 1 and 0 <= accuracy <= 1
    assert mean_iou(labels, other, classes) == pytest.approx((iou, accuracy))


def test_without_fitting_targets_outputs_are_compared() -> None:
    for targets in (None, np.zeros((4, 7)), np.array([9, 9, 9, 9])):
        found = compare(LOGITS, LOGITS, targets)
        assert (found.metric, found.value) == ("cosine", 1.0)


@given(numbers, numbers)
def test_cosine_is_symmetric_and_bounded(a: list[float], b: list[float]) -> None:
    x, y = np.array([a]), np.array([b])
    assert mean_cosine(x, y) == pytest.approx(mean_cosine(y, x))
    assert abs(mean_cosine(x, y)) <= 1 + 1e-9
    assert mean_cosine(x, x) == pytest.approx(1.0)


def test_cosine_with_zeros() -> None:
    zero, one = np.zeros((1, 2)), np.ones((1, 2))
    assert mean_cosine(zero, zero) == 1.0 and mean_cosine(zero, one) == 0.0


def test_quality_is_plain_data() -> None:
    assert compare(LOGITS, LOGITS, None).to_dict()["metric"] == "cosine"


def test_calibration_error_by_hand() -> None:
    half, sure = [0.0, 0.0], [0.0, 50.0]  # confidence 1/2 and 1
    logits = np.array([half, half, sure, sure])
    # Bin of 1/2: one of two right, gap 0. Bin of 1: one of two right, gap 1/2 on half the samples.
    assert expected_calibration_error(logits, np.array([0, 1, 1, 0])) == pytest.approx(0.25)


@given(st.integers(1, 30), st.integers(2, 6), st.floats(-5, 5))
def test_calibration_error_is_a_share_and_ignores_shifts(
    n: int, classes: int, shift: float
) -> None:
    rng = np.random.default_rng(n)
    logits, labels = rng.normal(size=(n, classes)), rng.integers(0, classes, n)
    found = expected_calibration_error(logits, labels)
    assert 0 <= found <= 1
    assert expected_calibration_error(logits + shift, labels) == pytest.approx(found, abs=1e-9)


def test_flips_balance_the_change_of_accuracy() -> None:
    rng = np.random.default_rng(0)
    before, after, labels = rng.normal(size=(50, 3)), rng.normal(size=(50, 3)), np.arange(50) % 3
    old, new = compare(before, before, labels), compare(after, before, labels)
    assert new.positive_flips is not None and new.negative_flips is not None
    assert new.value - old.value == pytest.approx(new.positive_flips - new.negative_flips)


def test_the_worst_output_speaks_for_a_model_without_targets() -> None:
    same = np.ones((2, 3), np.float32)
    found = compare_outputs((same, -same), (same, same), None)
    assert (found.metric, found.max_difference) == ("cosine", 2.0)
    assert found.value == pytest.approx(-1.0)
