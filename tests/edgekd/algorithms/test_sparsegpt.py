import pytest
import torch
from networks import samples
from torch import Tensor

from edgekd.algorithms.nm_mask import nm_mask
from edgekd.algorithms.sparsegpt import inverse_factor, sparsegpt_nm, sparsegpt_unstructured


def correlated(columns: int, rows: int = 600, seed: int = 0) -> Tensor:
    """Return inputs whose columns have much in common."""
    hidden = samples(rows, columns // 4, seed=seed)
    mixed = hidden @ samples(columns // 4, columns, seed=seed + 1)
    return (mixed + 0.3 * samples(rows, columns, seed=seed + 2)).double()


def hessian(x: Tensor) -> Tensor:
    return x.T @ x / len(x)


def error(weight: Tensor, changed: Tensor, x: Tensor) -> float:
    return float(((weight - changed).double() @ x.T).square().sum())


def test_nothing_changes_without_zeros() -> None:
    weight, h = samples(6, 200), hessian(correlated(200))
    found, mask = sparsegpt_unstructured(weight, h, 0)
    assert torch.equal(found, weight) and mask.all()


def test_independent_inputs_of_equal_size_leave_magnitude_pruning() -> None:
    weight = samples(6, 128)

    found, mask = sparsegpt_nm(weight, torch.eye(128), 2, 4)
    assert torch.equal(mask, nm_mask(weight.abs(), 2, 4))
    assert torch.allclose(found, weight * mask)

    found, mask = sparsegpt_unstructured(weight, torch.eye(128), 300)
    lowest = weight.abs().flatten().argsort()[:300]
    assert not mask.flatten()[lowest].any() and torch.allclose(found, weight * mask)


@pytest.mark.parametrize("columns", [40, 128, 300])
@pytest.mark.parametrize("zeros", [1, 500, 2000])
def test_exactly_as_many_zeros_as_asked_for(columns: int, zeros: int) -> None:
    weight = samples(30, columns)
    zeros = min(zeros, weight.numel())

    found, mask = sparsegpt_unstructured(weight, hessian(correlated(columns)), zeros)

    assert int((~mask).sum()) == zeros
    assert torch.equal(found != 0, mask)


@pytest.mark.parametrize(("kept", "group", "columns"), [(2, 4, 200), (1, 3, 150), (4, 8, 136)])
def test_every_group_keeps_n_also_across_blocks_of_columns(
    kept: int, group: int, columns: int
) -> None:
    found, mask = sparsegpt_nm(samples(9, columns), hessian(correlated(columns)), kept, group)

    assert (mask.reshape(9, -1, group).sum(2) == kept).all()
    assert torch.equal(found != 0, mask)


@pytest.mark.parametrize("seed", range(4))
def test_correlated_inputs_lose_less_than_by_magnitude(seed: int) -> None:
    weight, x = samples(16, 160, seed=seed + 50), correlated(160, seed=seed)

    found, _ = sparsegpt_nm(weight, hessian(x), 2, 4)
    by_magnitude = weight * nm_mask(weight.abs(), 2, 4)
    assert error(weight, found, x) < 0.7 * error(weight, by_magnitude, x)

    found, _ = sparsegpt_unstructured(weight, hessian(x), weight.numel() // 2)
    lowest = weight.abs().flatten().argsort()[: weight.numel() // 2]
    by_magnitude = weight.clone().flatten().index_fill(0, lowest, 0.0).reshape(weight.shape)
    assert error(weight, found, x) < 0.7 * error(weight, by_magnitude, x)


def test_a_single_loss_is_made_up_for_as_least_squares_would() -> None:
    # With the last columns free, the best answer to a first weight of 0 has a closed form.
    weight, x = torch.tensor([[1e-3, 5.0, 4.0]]).double(), correlated(12)[:, :3]
    h = hessian(x)

    found, mask = sparsegpt_unstructured(weight, h, 1)

    damped = h + 0.01 * h.diagonal().mean() * torch.eye(3)
    best = torch.linalg.solve(damped[1:, 1:], damped[1:] @ weight[0])
    assert mask.tolist() == [[False, True, True]]
    assert torch.allclose(found[0, 1:], best)


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    x = correlated(40)
    x[:, 5:9] = 0
    found, mask = sparsegpt_nm(samples(4, 40), hessian(x), 2, 4)
    assert found.isfinite().all() and (mask.reshape(4, -1, 4).sum(2) == 2).all()
    found, _ = sparsegpt_nm(samples(4, 40), torch.zeros(40, 40), 2, 4)
    assert found.isfinite().all()


def test_the_factor_is_that_of_the_inverse() -> None:
    h = hessian(correlated(24))
    factor = inverse_factor(h, damping=0.0)
    assert torch.equal(factor, factor.triu())
    assert torch.allclose(factor.T @ factor, torch.linalg.inv(h))
