"""Which layer is blamed, in networks where one was made sensitive on purpose."""

import pytest
import torch
from networks import RULES, Chain, build, clone, network, quantize, samples, spoiled_chain
from torch import Tensor, nn

from edgekd.quantize.calibrate import calibrate
from edgekd.quantize.partial import QuantizedProgram
from edgekd.quantize.prepare import prepare
from edgekd.quantize.sensitivity import LayerDamage, measure_sensitivity

INPUTS = samples(64, 3, 8, 8)


def measure(
    net: nn.Module,
    *inputs: Tensor,
    runtime: str = "onnxruntime",
    widen: str = "",
    classification: bool = True,
) -> list[LayerDamage]:
    found, rules = quantize(net, *inputs, runtime=runtime), RULES[runtime]
    names = [tensor.node for tensor in found.placement.tensors]
    ranges = calibrate(found.graph, names, lambda: [inputs], found.scheme, "minmax")
    if widen:
        ranges[widen] = (ranges[widen][0], 60 * ranges[widen][1])

    def insert(module: torch.fx.GraphModule, placement: object) -> object:
        return prepare(module, placement, found.scheme, ranges)  # type: ignore[arg-type]

    trained = clone(found.graph)
    insert(trained, found.placement)
    program = QuantizedProgram(found.graph, trained, rules.place, insert)
    labels = found.outputs(found.graph)[0].argmax(1) if classification else None
    halves = [tuple(x[:40] for x in inputs), tuple(x[40:] for x in inputs)]
    steps: list[int] = []
    rows = measure_sensitivity(program, halves, labels, steps.append, classification=classification)
    assert sum(steps) == len(rows) == len(program.layers())
    return rows


@pytest.mark.parametrize("runtime", RULES)
def test_the_layer_with_an_outlier_in_its_weights_comes_first(runtime: str) -> None:
    rows = measure(spoiled_chain(INPUTS), INPUTS, runtime=runtime)
    assert rows[0].layer == "b.0"
    assert rows[0].damage > 20 * rows[1].damage
    assert rows[0].drop_points > 30
    assert rows[1].drop_points < 5
    assert rows[0].agreement is not None and rows[0].agreement < 0.7
    assert [row.damage for row in rows] == sorted((row.damage for row in rows), reverse=True)


def test_an_outlier_in_an_activation_is_blamed_on_the_layers_on_both_sides() -> None:
    """An integer kernel of ONNX Runtime needs it on its output as much as on its input."""
    rows = measure(build(Chain), INPUTS, widen="relu")
    assert {row.layer for row in rows[:2]} == {"a.0", "b.0"}
    assert rows[1].damage > 5 * rows[2].damage


def test_for_tensorrt_it_is_blamed_on_the_layer_that_reads_it() -> None:
    rows = measure(build(Chain), INPUTS, widen="relu", runtime="tensorrt")
    assert rows[0].layer == "b.0"
    assert rows[0].damage > 5 * rows[1].damage


def test_multiplications_are_counted_for_one_sample() -> None:
    macs = {row.layer: row.macs for row in measure(build(Chain), INPUTS)}
    assert macs == {
        "a.0": 8 * 8 * 8 * 27,
        "b.0": 8 * 4 * 4 * 72,
        "hidden": 32 * 12,
        "head": 12 * 5,
    }


def test_without_classes_it_is_the_error_of_the_outputs() -> None:
    net, inputs = network("transformer", 64)
    rows = measure(net, *inputs, classification=False)
    assert {row.layer for row in rows} == {"qkv", "out", "up", "down", "head"}
    assert all(row.agreement is None and 0 < row.damage < 0.1 for row in rows)
    assert all(row.drop_points >= 0 for row in rows)  # cosine similarity to itself is 1
