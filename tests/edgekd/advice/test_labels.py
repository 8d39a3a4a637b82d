from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from advice_pairs import CLASSES, Cnn, write_pair
from networks import IMAGE, DenseOutput, build

from edgekd.advice.labels import (
    find_task,
    judge_labels,
    judge_teacher,
    probabilities,
    suspect_labels,
)
from edgekd.advice.pair import open_pair
from edgekd.errors import DataError
from edgekd.progress import Silent


def test_a_case_worked_out_by_hand() -> None:
    # Mean probability of their own class: class 0 (.9 + .1 + .8) / 3 = .6, class 1 .7.
    found = np.array([[0.9, 0.1], [0.1, 0.9], [0.8, 0.2], [0.2, 0.8], [0.4, 0.6]])
    labels = np.array([0, 0, 0, 1, 1])
    # The second is likely a 1 (.9 >= .7). The last reaches neither bar: nothing is known of it.
    assert suspect_labels(found, labels).tolist() == [False, True, False, False, False]


def test_a_class_without_labels_is_no_suspicion() -> None:
    found = np.array([[0.2, 0.1, 0.7], [0.05, 0.3, 0.65]])
    assert not suspect_labels(found, np.array([0, 1])).any()


def balanced(x: np.ndarray) -> Cnn:
    """Return a teacher that answers ``x`` with every class."""
    net = build(Cnn)
    assert isinstance(net, Cnn)
    with torch.no_grad():
        net.head.bias -= net(torch.from_numpy(x)).mean(0)
    return net


def test_labels_are_held_against_the_teacher(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(120, *IMAGE)).astype(np.float32)
    net = balanced(x)
    right = net(torch.from_numpy(x)).argmax(1).numpy()
    assert len(set(right)) == CLASSES
    np.savez(tmp_path / "more.npz", x=x[:24] + 1)
    request = write_pair(tmp_path, net, build(Cnn), x=x, y=right)
    teacher = open_pair(replace(request, unlabeled=str(tmp_path / "more.npz"))).teacher
    labels = judge_labels(teacher, find_task(teacher), 1000, Silent())
    assert labels.disagreement == 0
    assert labels.suspect is not None and labels.suspect < 0.1
    assert labels.share == pytest.approx(1 - 24 / labels.samples)
    assert labels.per_class is not None
    assert sum(labels.per_class) == labels.looked_at == labels.samples - 24
    quality = judge_teacher(teacher, 1000, Silent())
    assert quality.accuracy == 1
    assert quality.calibration_error == pytest.approx(1 - quality.confidence)
    wrong = replace(request, unlabeled=None)
    np.savez(tmp_path / "data.npz", x=x, y=(right + 1) % CLASSES)
    teacher = open_pair(wrong).teacher
    labels = judge_labels(teacher, "classes", 1000, Silent())
    assert labels.disagreement == 1
    assert labels.suspect is not None and labels.suspect > 0.5


def test_without_labels_two_axes_are_class_logits(tmp_path: Path) -> None:
    teacher = open_pair(write_pair(tmp_path, build(Cnn), build(Cnn), y=None)).teacher
    assert find_task(teacher) == "classes"
    labels = judge_labels(teacher, "classes", 1000, Silent())
    assert (labels.share, labels.per_class, labels.disagreement) == (0, None, None)
    quality = judge_teacher(teacher, 1000, Silent())
    assert quality.accuracy is None and 1 / CLASSES <= quality.confidence <= 1


def test_other_tasks_are_told_by_shapes_and_targets(tmp_path: Path) -> None:
    numbers = np.zeros((120, CLASSES), np.float32)
    teacher = open_pair(write_pair(tmp_path, build(Cnn), build(Cnn), y=numbers)).teacher
    assert find_task(teacher) == "numbers"
    dense = build(DenseOutput)
    teacher = open_pair(write_pair(tmp_path, dense, dense, y=None)).teacher
    assert find_task(teacher) == "dense"
    assert judge_labels(teacher, "dense", 10, Silent()).classes is None


class Unit(Cnn):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(super().forward(x), dim=1)


def test_rows_of_length_one_are_embeddings(tmp_path: Path) -> None:
    teacher = open_pair(write_pair(tmp_path, build(Unit), build(Cnn), y=None)).teacher
    assert find_task(teacher) == "numbers"


def test_labels_of_other_classes_are_refused(tmp_path: Path) -> None:
    labels = np.arange(120) % 5
    teacher = open_pair(write_pair(tmp_path, build(Cnn), build(Cnn), y=labels)).teacher
    with pytest.raises(DataError, match="labels run from 0 to 4, but the teacher has 3 classes"):
        find_task(teacher)


def test_probabilities_sum_to_one_for_large_logits() -> None:
    found = probabilities(np.array([[1e4, 0.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(found, [[1, 0], [0.5, 0.5]])
