"""Which layer gets which bits, and what the quantizers of 4 bits make of a weight."""

from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import with_slow
from networks import canonical, network, quantize, samples
from torch import fx

from edgekd.errors import StageError
from edgekd.quantize.fake import WeightFormat, WeightQuantizer
from edgekd.quantize.layer_bits import formats, in_float, layer_bits, resolve
from edgekd.recipe import LayerBits, QuantizeStage

NAMES = ["stem", "blocks.0.a", "blocks.0.b", "blocks.1.a", "blocks.1.b", "head"]
kinds = st.sampled_from(["w8a8", "w4a8", "w4a16", "float"])
patterns = st.sampled_from([*NAMES, "*", "blocks.*", "*.a", "blocks.?.b", "s[st]em"])
entries = st.lists(st.builds(LayerBits, match=patterns, bits=kinds), max_size=5)


def graph(name: str) -> fx.GraphModule:
    net, inputs = network(name)
    return canonical(net, *inputs)


def stage(**options: Any) -> QuantizeStage:
    return QuantizeStage(stage="quantize", **options)


@settings(deadline=None)  # the machines that run this are shared
@given(kinds, entries, st.booleans())
def test_the_last_entry_that_fits_decides(
    default: Any, given_entries: list[LayerBits], keep_ends: bool
) -> None:
    found = resolve(NAMES, default, given_entries, keep_ends=keep_ends)
    assert list(found) == NAMES
    for name, bits in found.items():
        fitting = [entry.bits for entry in given_entries if fnmatchcase(name, entry.match)]
        low_end = keep_ends and default in ("w4a8", "w4a16") and name in ("stem", "head")
        assert bits == (fitting[-1] if fitting else "w8a8" if low_end else default)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("blocks.0.c", r"layers\[0\]: no layer is called 'blocks.0.c'; near names: blocks.0"),
        ("encoder*", r"the layers are called stem, blocks.0.a, blocks.0.b, .. \(edgekd inspect"),
    ],
)
def test_a_pattern_without_a_layer_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(StageError, match=words):
        resolve(NAMES, "w8a8", [LayerBits(match=pattern, bits="float")], keep_ends=True)


def test_layers_are_those_with_a_stored_weight_shortcuts_left_out() -> None:
    found = layer_bits(graph("resnet"), stage(bits="w4a8"), opset=17)
    assert set(found.values()) == {"w8a8", "w4a8"}
    assert not [name for name in found if "shortcut" in name]
    assert [name for name, bits in found.items() if bits == "w8a8"] == ["stem.0", "head"]


@pytest.mark.parametrize(
    ("network_name", "options", "opset", "words"),
    [
        ("resnet", {"bits": "w4a16"}, 21, "blocks.0.a.0 is a convolution"),
        ("transformer", {"bits": "w4a16"}, 17, "out: w4a16 .* opset 21, .* reads opset 17"),
        ("transformer", {"bits": "w4a16"}, 21, "out has 16 inputs, which groups of 32 do not"),
    ],
)
def test_what_no_runtime_could_use_is_refused(
    network_name: str, options: dict[str, Any], opset: int, words: str
) -> None:
    with pytest.raises(StageError, match=words):
        layer_bits(graph(network_name), stage(**options), opset)


def test_bits_become_formats_and_reasons() -> None:
    bits: dict[str, Any] = {"a": "w8a8", "b": "w4a8", "c": "w4a16", "d": "float"}
    assert formats(bits, 64) == {"b": WeightFormat(4), "c": WeightFormat(4, 64)}
    assert set(in_float(bits)) == {"c", "d"}


@settings(deadline=None)  # the machines that run this are shared
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 70), st.sampled_from([16, 32]))
def test_groups_round_as_numpy_does(seed: int, outputs: int, inputs: int, size: int) -> None:
    weight = samples(outputs, inputs, seed=seed)
    quantizer = WeightQuantizer(weight, WeightFormat(4, size))
    steps = quantizer.log_scale.exp().detach().numpy()
    assert steps.shape == (outputs, -(-inputs // size))
    expected = np.empty((outputs, inputs), np.float32)
    for column in range(inputs):
        step = steps[:, column // size]
        codes = np.clip(np.round(weight[:, column].numpy() / step), -7, 7)
        expected[:, column] = codes * step
    assert np.array_equal(quantizer(weight).detach().numpy(), expected)
    codes = quantizer.codes(weight)
    assert codes.dtype == torch.int8 and int(codes.abs().max()) <= 7
    assert torch.equal(codes * quantizer.scale(), quantizer(weight))


def test_the_steps_of_groups_can_be_learned() -> None:
    weight = samples(3, 40)
    quantizer = WeightQuantizer(weight, WeightFormat(4, 16))
    quantizer.log_scale.requires_grad_()
    (quantizer(weight) - weight).square().sum().backward()
    gradient = quantizer.log_scale.grad
    assert gradient is not None and gradient.shape == (3, 3) and bool(gradient.any())


@pytest.mark.parametrize("runtime", with_slow(["onnxruntime", "tensorrt"], ["tensorrt"]))
def test_four_bits_keep_the_graph_of_eight(runtime: str) -> None:
    """Same kernels, other integers: codes of 4 bits are stored as bytes."""
    net, inputs = network("resnet")
    eight, four = (quantize(net, *inputs, runtime=runtime, bits=b) for b in ("w8a8", "w4a8"))
    assert four.placement == eight.placement
    layers = [found.kernels().layers for found in (eight, four)]
    assert [(x.name, x.kernel, x.precision) for x in layers[0]] == [
        (x.name, x.kernel, x.precision) for x in layers[1]
    ]
    codes = {
        name: int(t.abs().max())
        for name, t in four.converted.named_buffers()
        if name.endswith("weight_codes")
    }
    assert {name for name, largest in codes.items() if largest > 7} == {
        "stem.0.weight_codes",
        "head.weight_codes",
    }
