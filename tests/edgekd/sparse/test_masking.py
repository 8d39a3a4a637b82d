import pytest
import torch
from networks import build, conv_bn, quantize, samples, trace
from torch import nn

from edgekd.graph.batchnorm import fold_batch_norm
from edgekd.sparse.masking import apply_masks, held_zeros, layer_weights, lost_zeros, stored
from edgekd.sparse.patterns import NM, magnitude_masks


def net() -> nn.Module:
    return build(
        lambda: nn.Sequential(
            conv_bn(4, 8), nn.ReLU(), conv_bn(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)
        )
    )


def test_masked_weights_are_zero_and_the_others_as_they_were() -> None:
    graph, _ = trace(net(), samples(2, 4, 6, 6))
    before = {name: w.clone() for name, w in stored(graph, ["0.0.weight", "2.0.weight"]).items()}
    masks = magnitude_masks(NM(2, 4), before)

    apply_masks(graph, masks)

    after = stored(graph, before)
    assert all(torch.equal(after[name], before[name] * masks[name]) for name in masks)
    held = held_zeros(graph)
    assert held.keys() == masks.keys()
    assert all(torch.equal(held[name], masks[name]) for name in masks)
    assert not lost_zeros(graph, masks)


def test_a_dense_program_holds_no_zeros() -> None:
    graph, _ = trace(net(), samples(2, 4, 6, 6))
    assert held_zeros(graph) == {}


def test_folding_batch_norms_keeps_zeros() -> None:
    graph, _ = trace(net(), samples(2, 4, 6, 6))
    masks = magnitude_masks(NM(1, 4), stored(graph, ["0.0.weight", "2.0.weight"]))
    apply_masks(graph, masks)

    assert fold_batch_norm(graph) == 2

    held = held_zeros(graph)
    assert all(torch.equal(held[name], masks[name]) for name in masks)


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_a_lost_zero_is_found_also_in_integers(runtime: str) -> None:
    sparse = net()
    with torch.no_grad():
        sparse[2][0].weight[:, :2] = 0
    found = quantize(sparse, samples(16, 4, 6, 6), runtime=runtime)
    names = [name for name, _ in layer_weights(found.converted)]
    assert names == ["0.0.weight", "2.0.weight", "5.weight"]
    masks = held_zeros(found.graph)
    assert list(masks) == ["2.0.weight"] and not lost_zeros(found.converted, masks)

    integers = dict(layer_weights(found.converted))["2.0.weight"]
    assert integers.dtype == torch.int8
    integers[3, 1, 0, 0] = 1
    assert lost_zeros(found.converted, masks) == ["2.0.weight"]
    assert lost_zeros(found.converted, {"gone": masks["2.0.weight"]}) == ["gone"]
