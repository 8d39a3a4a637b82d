import math

import pytest
import torch
import torch.nn.functional as F
from networks import samples

from edgekd.algorithms.hierarchical_self_supervision import branch_loss
from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.label_augmentation import aggregate
from edgekd.algorithms.layered_self_supervision import layered_loss

LABELS = torch.tensor([2, 0])


def logits() -> torch.Tensor:
    return samples(2, 3).double()


def branches() -> list[torch.Tensor]:
    return [samples(8, 12, seed=2 + i).double() for i in range(3)]


def features() -> list[torch.Tensor]:
    return [samples(8, 5, seed=7 + i).double() for i in range(3)]


def test_it_is_the_sum_of_its_parts() -> None:
    a, f = branches(), features()
    expected = F.cross_entropy(logits(), LABELS) + branch_loss(a, labels=LABELS)
    expected = expected + 0.5 * (kl_loss(a[0], a[2], 2.0) + kl_loss(a[1], a[2], 2.0))
    expected = expected + 0.25 * sum(kl_loss(aggregate(x), logits(), 2.0) for x in a)
    expected = expected + 3 * (F.mse_loss(f[0], f[2]) + F.mse_loss(f[1], f[2]))
    found = layered_loss(
        logits(),
        a,
        labels=LABELS,
        features=f,
        temperature=2.0,
        branch_weight=0.5,
        logit_weight=0.25,
        feature_weight=3.0,
    )
    assert found.item() == pytest.approx(expected.item())


def test_without_branches_the_cross_entropy_stays() -> None:
    expected = F.cross_entropy(logits(), LABELS).item()
    assert layered_loss(logits(), (), labels=LABELS).item() == pytest.approx(expected)


def test_targets_get_no_gradient_from_what_they_teach() -> None:
    last, mine = logits().requires_grad_(), [x.requires_grad_() for x in branches()]
    seen = [x.requires_grad_() for x in features()]
    nothing = torch.tensor([-1, -1])
    layered_loss(
        last, mine, labels=nothing, features=seen, feature_weight=1.0, logit_weight=0.0
    ).backward()
    assert last.grad.abs().max() == 0
    assert mine[2].grad.abs().max() == 0 and seen[2].grad is None
    assert all(x.grad.abs().max() > 1e-4 for x in (*mine[:2], *seen[:2]))


def test_features_that_are_asked_for_have_to_be_there() -> None:
    with pytest.raises(ValueError, match="two or more"):
        layered_loss(logits(), branches(), labels=LABELS, feature_weight=1.0)
    with pytest.raises(ValueError, match="equal shapes"):
        layered_loss(
            logits(),
            branches(),
            labels=LABELS,
            features=[samples(8, 5), samples(8, 4)],
            feature_weight=1.0,
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_stay_finite(dtype: torch.dtype) -> None:
    mine = [(60 * x).to(dtype) for x in branches()]
    found = layered_loss((60 * logits()).to(dtype), mine, labels=LABELS)
    assert found.dtype == torch.float32 and math.isfinite(found.item())
