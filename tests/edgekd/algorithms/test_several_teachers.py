import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_checks import logits

from edgekd.algorithms.several_teachers import HIGHEST, ensemble_logits, entropy_temperatures


def entropy(some: torch.Tensor, temperature: float) -> float:
    p = (some.double() / temperature).softmax(1)
    return -(p * p.log()).sum(1).mean().item()


def test_probabilities_are_averaged_and_not_logits() -> None:
    # (9/10, 1/10) and (1/4, 3/4) with weights 3 to 1.
    one, two = torch.tensor([[9.0, 1]]).log(), torch.tensor([[1.0, 3]]).log()
    found = ensemble_logits([one, two], weights=[3, 1]).exp()
    assert found[0].tolist() == pytest.approx([0.7375, 0.2625])
    opposed = ensemble_logits([one * 100, -one]).exp()
    assert opposed[0].tolist() == pytest.approx([0.5 * (1 + 0.1), 0.5 * 0.9])


@given(st.integers(1, 4), st.floats(0.3, 5))
def test_equal_teachers_are_one_teacher(count: int, temperature: float) -> None:
    some = logits()
    found = ensemble_logits([some] * count, temperatures=[temperature] * count)
    torch.testing.assert_close(found, (some / temperature).log_softmax(1))


def test_a_teacher_of_weight_zero_does_not_count() -> None:
    one, two = logits(), logits(seed=1)
    torch.testing.assert_close(ensemble_logits([one, two], weights=[1, 0]), one.log_softmax(1))


def test_no_gradient_reaches_a_teacher_and_sixteen_bits_do() -> None:
    teacher = (logits().sign() * 60).half().requires_grad_()
    found = ensemble_logits([teacher, teacher * 0.5])
    assert not found.requires_grad and found.dtype == torch.float32
    assert found.exp().sum(1).tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize(
    ("weights", "temperatures"),
    [([1.0], None), ([1.0, -1.0], None), ([0.0, 0.0], None), (None, [1.0]), (None, [1.0, 0.0])],
)
def test_what_does_not_fit_is_refused(weights, temperatures) -> None:
    with pytest.raises(ValueError, match="teachers"):
        ensemble_logits([logits(), logits()], weights=weights, temperatures=temperatures)


@given(st.floats(0.3, 3), st.floats(0.3, 3))
def test_temperatures_make_all_entropies_equal(one: float, two: float) -> None:
    teachers = [logits() * one, logits(seed=1) * two]
    target = sum(entropy(teacher, 1.0) for teacher in teachers) / 2
    for teacher, found in zip(teachers, entropy_temperatures(teachers), strict=True):
        assert entropy(teacher, found) == pytest.approx(target, abs=1e-6)


def test_a_lone_teacher_stays_and_a_scaled_one_is_scaled_back() -> None:
    some = logits()
    assert entropy_temperatures([some]) == pytest.approx([1.0])
    one, tenfold = entropy_temperatures([some, some * 10], target=entropy(some, 1.0))
    assert (one, tenfold) == pytest.approx((1.0, 10.0))


def test_constant_logits_and_entropies_out_of_reach() -> None:
    assert entropy_temperatures([torch.zeros(3, 4)], target=0.1) == (1.0,)
    assert entropy_temperatures([logits()], target=99.0)[0] == pytest.approx(HIGHEST)
