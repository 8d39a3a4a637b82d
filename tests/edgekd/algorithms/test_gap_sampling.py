import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekd.algorithms.gap_sampling import group_gaps, group_probabilities, sample_weights

gaps = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_gaps_are_means_by_group() -> None:
    student = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    teacher = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])
    groups = torch.tensor([0, 0, 2, 3, -1])
    # Group 1 has no sample, in group 3 the student is better, and the last sample has no group.
    assert group_gaps(student, teacher, groups, 4).tolist() == [0.5, 0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="for each sample"):
        group_gaps(student, teacher[:2], groups, 4)


@given(gaps, st.floats(0, 1), st.floats(0, 1), st.floats(1, 10))
def test_probabilities_are_bounded_and_ordered(
    values: list[float], smoothing: float, least: float, most: float
) -> None:
    found = group_probabilities(torch.tensor(values), smoothing=smoothing, least=least, most=most)
    count = len(values)
    assert found.sum().item() == pytest.approx(1)
    assert found.min() >= least / count - 1e-9 and found.max() <= most / count + 1e-9
    ranked = found[torch.tensor(values).argsort()]
    assert (ranked.diff() >= -1e-9).all()


def test_a_case_worked_out_by_hand() -> None:
    # Half of uniform plus half of (0, 1/4, 3/4): inside the bounds of 0 and 3 times uniform.
    found = group_probabilities(torch.tensor([0.0, 1.0, 3.0]), least=0.0, most=3.0)
    assert found.tolist() == pytest.approx([1 / 6, 1 / 6 + 1 / 8, 1 / 6 + 3 / 8])
    # At most 1.5 times uniform: the last is cut to 1/2, the others share 1/2 as 4 to 7.
    found = group_probabilities(torch.tensor([0.0, 1.0, 3.0]), least=0.0, most=1.5)
    assert found.tolist() == pytest.approx([0.5 * 4 / 11, 0.5 * 7 / 11, 0.5])


@given(gaps)
def test_no_gap_or_full_smoothing_is_uniform(values: list[float]) -> None:
    uniform = [1 / len(values)] * len(values)
    assert group_probabilities(torch.zeros(len(values))).tolist() == pytest.approx(uniform)
    found = group_probabilities(torch.tensor(values), smoothing=1.0)
    assert found.tolist() == pytest.approx(uniform)


@given(st.floats(1e-3, 1e3))
def test_the_unit_of_gaps_does_not_count(factor: float) -> None:
    values = torch.tensor([0.1, 0.2, 0.0, 0.6]).double()
    found = group_probabilities(factor * values)
    assert found.tolist() == pytest.approx(group_probabilities(values).tolist())


def test_a_groups_probability_is_shared_among_its_samples() -> None:
    groups = torch.tensor([0, 0, 0, 1])
    found = sample_weights(groups, torch.tensor([0.25, 0.75]))
    assert found.tolist() == pytest.approx([0.25 / 3] * 3 + [0.75])
    # One of two samples without a group keeps its half; the empty group 1 gives way to group 0.
    found = sample_weights(torch.tensor([0, -1]), torch.tensor([0.25, 0.75]))
    assert found.tolist() == pytest.approx([0.5, 0.5])


def test_what_means_nothing_is_refused() -> None:
    for bad in (torch.tensor([-0.1]), torch.tensor([torch.nan]), torch.zeros(0)):
        with pytest.raises(ValueError, match="from 0 up"):
            group_probabilities(bad)
    with pytest.raises(ValueError, match="within 0 and 1"):
        group_probabilities(torch.ones(2), most=0.5)
    with pytest.raises(ValueError, match="one of 1 groups"):
        sample_weights(torch.tensor([1]), torch.ones(1))
    with pytest.raises(ValueError, match="may be drawn"):
        sample_weights(torch.tensor([0]), torch.tensor([0.0, 1.0]))
