import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import build, samples

from edgekd.algorithms.mutual_information import MutualInformationLoss, interpolated_bound

alphas = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.01, 0.99))


@given(alphas, st.floats(-20, 20), st.integers(3, 6))
def test_constant_scores_and_as_much_baseline_tell_nothing(
    alpha: float, score: float, count: int
) -> None:
    scores = torch.full((count, count), score).double()
    found = interpolated_bound(scores, scores[0], alpha=alpha)
    assert found.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_it_is_the_formula_written_out(alpha: float) -> None:
    count = 4
    f, b = samples(count, count).double().numpy(), samples(count, seed=1).double().numpy()
    m = np.empty((count, count))
    for i in range(count):
        for j in range(count):
            mean = np.mean([np.exp(f[i, k]) for k in range(count) if k != j])
            m[i, j] = np.log(alpha * mean + (1 - alpha) * np.exp(b[i]))
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    joint = np.mean([f[i, i] - m[i, j] for i, j in pairs])
    marginal = np.mean([np.exp(f[i, j] - m[i, i]) for i, j in pairs])
    found = interpolated_bound(torch.from_numpy(f), torch.from_numpy(b), alpha=alpha)
    assert found.item() == pytest.approx(1 + joint - marginal)


@pytest.mark.parametrize("count", [3, 8])
def test_info_nce_ends_at_the_log_of_the_others_and_the_free_form_does_not(count: int) -> None:
    separable = 40 * torch.eye(count).double()
    nothing = torch.zeros(count).double()
    bound = interpolated_bound(separable, nothing, alpha=1).item()
    assert bound == pytest.approx(math.log(count - 1), abs=1e-9)
    assert interpolated_bound(separable, nothing, alpha=0).item() == pytest.approx(40)


@given(st.integers(0, 99), st.floats(0, 10))
def test_info_nce_never_exceeds_it_and_ignores_the_baseline(seed: int, scale: float) -> None:
    scores = scale * samples(5, 5, seed=seed).double()
    baseline = samples(5, seed=seed + 1).double().requires_grad_()
    bound = interpolated_bound(scores, baseline, alpha=1)
    assert bound.item() <= math.log(4) + 1e-9 and not bound.requires_grad
    assert interpolated_bound(scores, baseline, alpha=0.5).requires_grad


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_gradients_are_right(alpha: float) -> None:
    inputs = samples(4, 4).double().requires_grad_(), samples(4, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f, b: interpolated_bound(f, b, alpha=alpha), inputs)


def test_the_module_finds_a_relation_that_is_there_and_none_that_is_not() -> None:
    """Eight equally likely kinds, seen by student and teacher in different numbers: log 8 nats."""
    torch.manual_seed(0)
    kinds = torch.arange(64) % 8
    student, teacher = samples(8, 4)[kinds], samples(8, 6, seed=1)[kinds]

    def learned(student: torch.Tensor) -> float:
        module = build(lambda: MutualInformationLoss(4, 6, hidden=32, out=8)).train()
        optimizer = torch.optim.Adam(module.parameters(), 1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            loss = module(student[torch.randperm(64)] if mixed else student, teacher)
            loss.backward()
            optimizer.step()
        return -loss.item()

    mixed = False
    assert 1.2 < learned(student) < math.log(8) + 0.3
    mixed = True
    assert abs(learned(student)) < 0.3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_no_gradient_reaches_the_teacher_and_large_features_stay_finite(dtype: torch.dtype) -> None:
    module = build(lambda: MutualInformationLoss(4, 6, hidden=8))
    student = (1e4 * samples(3, 4, 2, 2)).to(dtype).requires_grad_()
    teacher = (1e4 * samples(3, 5, 6, seed=1)).to(dtype).requires_grad_()
    value = module(student, teacher)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all() and teacher.grad is None
    assert all(weight.grad is not None for weight in module.parameters())


def test_the_scale_of_features_does_not_count() -> None:
    module = build(lambda: MutualInformationLoss(4, 6, hidden=8))
    student, teacher = samples(5, 4), samples(5, 6, seed=1)
    plain = module(student, teacher).item()
    assert module(1e3 * student, 1e4 * teacher).item() == pytest.approx(plain, abs=1e-4)


def test_what_has_no_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        interpolated_bound(torch.eye(4), torch.zeros(4), alpha=1.5)
    with pytest.raises(ValueError, match="three samples"):
        interpolated_bound(torch.eye(2), torch.zeros(2), alpha=0.5)
