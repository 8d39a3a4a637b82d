import pytest
import torch
from networks import build, samples, trace
from torch import Tensor, nn

from edgekd.graph.program import clone, output_tensors
from edgekd.sparse.masking import apply_masks, stored
from edgekd.sparse.patterns import NM, Pattern, Unstructured, magnitude_masks
from edgekd.sparse.second_order import collect_hessians, prune_second_order


def net() -> nn.Module:
    return build(
        lambda: nn.Sequential(
            nn.Conv2d(4, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=2),
            nn.ReLU(),
            nn.Flatten(2),
            nn.Linear(16, 12),
        )
    )


def inputs() -> list[tuple[Tensor]]:
    """Return images whose channels have much in common."""
    mixed = torch.einsum("nchw,dc->ndhw", samples(48, 2, 8, 8), samples(4, 2, seed=1))
    return [(batch,) for batch in (mixed + 0.2 * samples(48, 4, 8, 8, seed=2)).split(16)]


NAMES = ["0.weight", "2.weight", "5.weight"]


def test_the_hessian_is_the_mean_over_all_places_and_samples() -> None:
    graph, _ = trace(net(), *inputs()[0])

    found = collect_hessians(graph, {"5.weight", "2.weight"}, inputs())

    assert found["2.weight"].shape == (2, 72, 72)
    with torch.no_grad():
        x = net()[:5](torch.cat([batch for (batch,) in inputs()])).reshape(-1, 16)
    assert torch.allclose(found["5.weight"][0], x.T @ x / len(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pattern", [NM(2, 4), Unstructured(0.5)])
def test_outputs_change_less_than_by_magnitude_at_the_same_sparsity(pattern: Pattern) -> None:
    graph, _ = trace(net(), *inputs()[0])
    pruned, plain = clone(graph), clone(graph)

    masks = prune_second_order(pruned, NAMES, pattern, inputs())
    by_magnitude = magnitude_masks(pattern, stored(plain, NAMES))
    apply_masks(plain, by_magnitude)

    for name, weight in stored(pruned, NAMES).items():
        assert torch.equal(weight != 0, masks[name])
        assert masks[name].sum() == by_magnitude[name].sum()
    with torch.no_grad():
        expected, found, magnitude = (
            torch.cat([output_tensors(module(*batch))[0] for batch in inputs()])
            for module in (graph, pruned, plain)
        )
    assert (found - expected).square().mean() < 0.8 * (magnitude - expected).square().mean()


def test_nm_groups_lie_along_the_inputs() -> None:
    graph, _ = trace(net(), *inputs()[0])
    masks = prune_second_order(graph, NAMES, NM(1, 4), inputs())
    for mask in masks.values():
        assert (mask.reshape(len(mask), -1, 4, *mask.shape[2:]).sum(2) == 1).all()
