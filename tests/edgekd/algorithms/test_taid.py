import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_checks import check_large_half_precision, check_shift_invariance, gradient, logits

from edgekd.algorithms.taid import TaidSchedule, taid_loss


@given(st.floats(0, 1))
def test_the_gradient_is_the_students_less_the_mixed_probabilities(mix: float) -> None:
    student, teacher = logits(), logits(seed=1)
    found = gradient(lambda s, t: taid_loss(s, t, mix=mix), student, teacher)
    target = ((1 - mix) * student + mix * teacher).softmax(1)
    torch.testing.assert_close(found, (student.softmax(1) - target) / 4, rtol=0, atol=1e-12)


def test_the_ends_are_the_student_itself_and_the_teacher() -> None:
    student, teacher = logits(), logits(seed=1)
    at_start = gradient(lambda s, t: taid_loss(s, t, mix=0.0), student, teacher)
    assert at_start.abs().max() < 1e-15
    whole = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    assert taid_loss(student, teacher, mix=torch.tensor(1.0)).item() == pytest.approx(whole.item())


def test_a_case_worked_out_by_hand() -> None:
    # Half way between (0, 0) and (2 log 3, 0) the target is (3/4, 1/4); the student is even.
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    assert taid_loss(student, teacher, mix=0.5).item() == pytest.approx(math.log(2))
    turned = gradient(lambda s, t: taid_loss(s, t, mix=0.5), student, teacher)
    assert turned[0].tolist() == pytest.approx([-0.25, 0.25])


def test_rows_that_do_not_count_are_left_out() -> None:
    student, teacher = logits(), logits(seed=1)
    valid = torch.tensor([True, False, True, False])
    found = taid_loss(student, teacher, mix=0.3, valid=valid)
    assert found.item() == pytest.approx(taid_loss(student[valid], teacher[valid], mix=0.3).item())
    assert taid_loss(student, teacher, mix=0.3, valid=valid & False).item() == 0


def test_what_every_loss_is_to_hold() -> None:
    check_shift_invariance(lambda s, t: taid_loss(s, t, mix=0.7))
    check_large_half_precision(lambda s, t: taid_loss(s, t, mix=0.7))


@given(st.lists(st.floats(0, 100) | st.just(math.nan), min_size=1, max_size=20))
def test_the_schedule_rises_at_least_as_a_line_up_to_its_end(losses: list[float]) -> None:
    schedule = TaidSchedule(20, end=0.9, rate=0.05)
    before = schedule.mix.item()
    for step, loss in enumerate(losses, 1):
        schedule.update(torch.tensor(loss))
        line = 0.4 + 0.5 * step / 20
        assert schedule.mix.item() >= max(before, line) - 1e-6
        assert schedule.mix.item() <= 0.9 + 1e-6
        before = schedule.mix.item()


def test_two_updates_worked_out_by_hand() -> None:
    schedule = TaidSchedule(10**9, rate=0.1, momentum=0.5)
    schedule.update(torch.tensor(2.0))
    assert schedule.mix.item() == pytest.approx(0.4)
    schedule.update(torch.tensor(1.0))  # change 1/2, trend 1/4
    assert schedule.trend.item() == pytest.approx(0.25)
    expected = 0.4 + 0.1 / (1 + math.exp(-0.25)) * 0.6
    assert schedule.mix.item() == pytest.approx(expected)


def test_a_falling_loss_moves_it_faster_than_a_rising_one() -> None:
    mixes = []
    for factor in (0.5, 2.0):
        schedule = TaidSchedule(10**6, rate=0.1, momentum=0.5)
        for step in range(5):
            schedule.update(torch.tensor(factor**step))
        mixes.append(schedule.mix.item())
    assert mixes[0] > mixes[1]


def test_a_checkpoint_goes_on_where_it_was() -> None:
    schedule = TaidSchedule(100)
    for loss in (3.0, 2.0):
        schedule.update(torch.tensor(loss))
    other = TaidSchedule(100)
    other.load_state_dict(schedule.state_dict())
    for each in (schedule, other):
        each.update(torch.tensor(1.0))
    assert torch.equal(schedule.mix, other.mix) and torch.equal(schedule.trend, other.trend)


def test_a_schedule_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="schedule"):
        TaidSchedule(10, start=0.9, end=0.5)
