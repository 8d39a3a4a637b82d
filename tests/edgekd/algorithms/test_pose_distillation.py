import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.pose_distillation import bins_loss, summed_feature_loss, vanishing_weight


def axes(seed: int = 0) -> list[torch.Tensor]:
    return [samples(2, 3, bins, seed=seed + bins).double() for bins in (5, 7)]


@given(st.integers(1, 300))
def test_the_weight_falls_from_one_to_a_last_share(epochs: int) -> None:
    weights = [vanishing_weight(epoch, epochs) for epoch in range(epochs)]
    assert weights[0] == 1 and weights[-1] == pytest.approx(1 / epochs)
    steps = [a - b for a, b in pairwise(weights)]
    assert steps == pytest.approx([1 / epochs] * (epochs - 1))
    with pytest.raises(ValueError, match="not one of"):
        vanishing_weight(epochs, epochs)


def test_a_case_worked_out_by_hand() -> None:
    # One keypoint of two learns (3/4, 1/4) on one axis; sharpened tenfold, hence logits of a tenth.
    student = [torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)]
    teacher = [torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)]
    teacher[1][0, 0, 0] = math.log(3) / 10
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert bins_loss(student, teacher).item() == pytest.approx(expected, rel=1e-4)


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_axes_shift_for_themselves(a: float, b: float) -> None:
    plain = bins_loss(axes(), axes(1)).item()
    moved = [x + shift for x, shift in zip(axes(), (a, b), strict=True)]
    assert bins_loss(moved, axes(1)).item() == pytest.approx(plain, rel=1e-6)
    assert bins_loss(moved, axes()).item() == pytest.approx(0, abs=1e-9)


def test_sharpness_is_the_inverse_of_a_temperature_without_a_factor() -> None:
    def divergence(s: torch.Tensor, t: torch.Tensor) -> float:
        log_p, log_q = (F.log_softmax(2 * x.flatten(0, 1), 1) for x in (s, t))
        return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True).item()

    pairs = zip(axes(), axes(1), strict=True)
    found = bins_loss(axes(), axes(1), sharpness=2.0).item()
    assert found == pytest.approx(sum(divergence(s, t) for s, t in pairs))


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = ([x.requires_grad_() for x in axes(seed)] for seed in (0, 1))
    bins_loss(student, teacher).backward()
    assert all(x.grad.sum(-1).abs().max() < 1e-9 for x in student)
    assert all(x.grad is None for x in teacher)
    mine, theirs = samples(2, 3, 2, 2).requires_grad_(), samples(2, 3, 2, 2).requires_grad_()
    summed_feature_loss(mine, theirs).backward()
    assert mine.grad is not None and theirs.grad is None


def test_features_are_summed_within_a_sample() -> None:
    teacher = torch.zeros(2, 3, 2, 2)
    assert summed_feature_loss(teacher + 2, teacher).item() == pytest.approx(4 * 12)
    half = torch.full((1, 1, 2, 2), 3000.0, dtype=torch.float16)
    assert summed_feature_loss(half, -half).item() == pytest.approx(4 * 3.6e7, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_stay_finite(dtype: torch.dtype) -> None:
    student, teacher = ([(60 * x).to(dtype) for x in axes(seed)] for seed in (0, 1))
    assert math.isfinite(bins_loss(student, teacher).item())


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="axis by axis"):
        bins_loss(axes(), axes()[:1])
    with pytest.raises(ValueError, match="one by one"):
        bins_loss(axes(), axes()[::-1])
    with pytest.raises(ValueError, match="value by value"):
        summed_feature_loss(samples(2, 3), samples(2, 4))
