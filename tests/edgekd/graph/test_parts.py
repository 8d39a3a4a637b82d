"""Stored tensors by the paths of their modules, and what lies behind the last block."""

import pytest
from networks import IMAGE, Mlp, ResNet, Transformer, build, samples, trace
from torch import nn

from edgekd.graph.parts import head_tensors, part_tensors, stored_tensors

RESNET, _ = trace(build(ResNet), samples(2, *IMAGE))


def test_a_pattern_takes_all_below_a_module() -> None:
    first = part_tensors(RESNET, ["blocks.0"])
    assert first == {name for name in stored_tensors(RESNET) if name.startswith("blocks.0.")}
    assert any(name.endswith("running_mean") for name in first)
    assert part_tensors(RESNET, ["blocks.*"]) == part_tensors(RESNET, ["blocks"]) > first
    assert part_tensors(RESNET, ["*"]) == set(stored_tensors(RESNET))
    assert part_tensors(RESNET, []) == frozenset()


def test_a_pattern_that_fits_nothing_is_told_with_what_there_is() -> None:
    with pytest.raises(ValueError) as caught:
        part_tensors(RESNET, ["stem", "block"])
    pattern, paths = caught.value.args
    assert pattern == "block" and any(path.startswith("blocks.0") for path in paths)


@pytest.mark.parametrize(
    ("net", "shape"), [(ResNet, (2, *IMAGE)), (Transformer, (2, 6, 16)), (Mlp, (2, 16))]
)
def test_the_head_is_the_last_linear_layer(net: type[nn.Module], shape: tuple[int, ...]) -> None:
    module = build(net)
    graph, _ = trace(module, samples(*shape))
    (last,) = [n for n, layer in module.named_modules() if isinstance(layer, nn.Linear)][-1:]
    assert head_tensors(graph) == {f"{last}.weight", f"{last}.bias"}


def test_one_layer_has_no_head() -> None:
    graph, _ = trace(nn.Linear(4, 3).eval(), samples(2, 4))
    with pytest.raises(ValueError, match="cannot be cut into blocks"):
        head_tensors(graph)
