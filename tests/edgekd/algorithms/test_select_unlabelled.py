import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.algorithms.select_unlabelled import joint_scores, select_unlabelled

# The teacher's probabilities and the student's; the teacher's classes are 0, 0, 0, 1, 1.
TEACHER = np.log([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.05, 0.95], [0.3, 0.7]])
STUDENT = np.log([[0.95, 0.05], [0.4, 0.6], [0.5, 0.5], [0.5, 0.5], [0.9, 0.1]])


def test_scores_by_hand() -> None:
    assert joint_scores(TEACHER) == pytest.approx([0.9, 0.8, 0.6, 0.95, 0.7])
    expected = [0.9 * 0.05, 0.8 * 0.6, 0.6 * 0.5, 0.95 * 0.5, 0.7 * 0.9]
    assert joint_scores(TEACHER, STUDENT) == pytest.approx(expected)


def test_the_best_of_every_class() -> None:
    assert select_unlabelled(TEACHER, per_class=1).tolist() == [0, 3]
    assert select_unlabelled(TEACHER, STUDENT, per_class=1).tolist() == [1, 4]
    assert select_unlabelled(TEACHER, STUDENT, per_class=9).tolist() == [0, 1, 2, 3, 4]


def test_an_unsure_teacher_is_not_asked() -> None:
    found = select_unlabelled(TEACHER, STUDENT, per_class=2, least_confidence=0.75)
    assert found.tolist() == [0, 1, 3]
    assert select_unlabelled(TEACHER, per_class=1, least_confidence=1.1).size == 0


@given(st.integers(0, 1000), st.integers(1, 5))
def test_never_more_than_asked_and_never_a_better_one_left(seed: int, per_class: int) -> None:
    rng = np.random.default_rng(seed)
    teacher, student = rng.normal(size=(2, 30, 3)) * 3
    kept = select_unlabelled(teacher, student, per_class=per_class, least_confidence=0.0)
    scores, classes = joint_scores(teacher, student), teacher.argmax(1)
    assert ((scores >= 0) & (scores <= 1)).all()
    for index in range(3):
        mine = np.flatnonzero(classes == index)
        taken = np.intersect1d(mine, kept)
        assert len(taken) == min(per_class, len(mine))
        left = np.setdiff1d(mine, taken)
        assert not len(left) or scores[taken].min() >= scores[left].max()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="samples"):
        select_unlabelled(TEACHER, per_class=0)
    with pytest.raises(ValueError, match="student and teacher"):
        joint_scores(TEACHER, STUDENT[:2])
