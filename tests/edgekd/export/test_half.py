"""FP16 for the float rest: the same answers, the types that TensorRT wants, and what stays out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from marks import with_slow
from networks import (
    NETWORKS,
    cosine,
    nodes_of,
    quantized,
    run_onnx,
    samples,
    trace,
)
from onnx import TensorProto, helper
from tensorrt_graphs import (
    exported,
    exported_half,
    good_block,
    insert,
    node,
    set_scale,
    store,
)
from torch import Tensor, nn

from edgekd.errors import ExportError
from edgekd.export.finite import first_not_finite
from edgekd.export.half import Half, to_half
from edgekd.export.half_rounding import with_rounding
from edgekd.export.onnx import export_onnx
from edgekd.export.quantized_graph import QuantizedGraph

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)


def block(change: Callable[[onnx.ModelProto], None]) -> Half:
    """Return the block of ``good_block`` at opset 20, changed, in FP16."""
    model = good_block()
    model.opset_import[0].version, model.ir_version = 20, 9
    change(model)
    return to_half(model.SerializeToString())


def graph(half: Half | bytes) -> QuantizedGraph:
    return QuantizedGraph(onnx.load_from_string(half if isinstance(half, bytes) else half.model))


def computes_in(half: Half | bytes, name: str) -> int:
    found = graph(half)
    return found.types[next(n for n in found.nodes if n.name == name).output[0]]


class Handwritten(nn.Module):
    """A norm written out, whose squares leave FP16's range, and a mask of minus infinity."""

    def forward(self, x: Tensor) -> Tensor:
        y = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)
        return torch.softmax(y.masked_fill(y < 0, float("-inf")), -1)


@pytest.mark.parametrize(
    "name", with_slow(NETWORKS, ["chain", "hardswish", "concat", "mobile", "transformer"])
)
def test_the_answers_stay_and_inputs_and_outputs_are_float32(name: str) -> None:
    found, model = quantized(name, "tensorrt"), exported(name, 20)
    half = to_half(model)
    assert half.kept == {}
    before = run_onnx(model, found.spec, *found.inputs, optimise=False)
    after = run_onnx(with_rounding(half.model), found.spec, *found.inputs)
    assert after[0].dtype == np.float32
    assert cosine(before[0], after[0]) > 0.9995
    ends = onnx.load_from_string(half.model).graph
    assert {v.type.tensor_type.elem_type for v in [*ends.input, *ends.output]} == {FLOAT}


def test_layers_are_float16_and_range_hungry_operations_float32() -> None:
    found = graph(exported_half("transformer"))
    kinds = {n.op_type: found.types[n.output[0]] for n in found.nodes}
    assert {kinds[op] for op in ("MatMul", "Gemm", "Gelu")} == {HALF}
    assert {kinds[op] for op in ("LayerNormalization", "Softmax", "ReduceMean")} == {FLOAT}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_cast_stands_between_a_quantizer_and_its_layer(name: str) -> None:
    found = graph(exported_half(name))
    for cast in found.of("Cast"):
        assert found.made_by(cast.input[0], "DequantizeLinear") is None
    assert all(t.data_type != TensorProto.DOUBLE for t in found.constants.values())


def test_the_two_halves_of_a_quantizer_have_the_same_step() -> None:
    found = graph(exported_half("transformer"))
    for reader in found.of("DequantizeLinear"):
        writer = found.made_by(reader.input[0], "QuantizeLinear")
        if writer is not None:
            ours, theirs = found.value(reader.input[1]), found.value(writer.input[1])
            assert ours is not None and theirs is not None and float(ours) == float(theirs)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: store(m, "a_bias", np.full(6, 1e5, np.float32)), "larger than FP16's 65504"),
        (lambda m: store(m, "a_bias", np.full(6, 1e-9, np.float32)), "1e-09 is 0 in FP16"),
        (lambda m: set_scale(m, "a", 1e-7, 6), "too fine for FP16"),
        (lambda m: set_scale(m, "a", 1e3, 6), "more than FP16's 65504"),
    ],
    ids=["too large", "too small", "fine steps", "coarse steps"],
)
def test_a_layer_with_numbers_that_fp16_cannot_hold_stays_in_float32(
    change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    half = block(change)
    assert list(half.kept) == ["a"] and reason in half.kept["a"]
    assert computes_in(half, "a") == FLOAT and computes_in(half, "b") == HALF
    found = graph(half)
    conv = next(n for n in found.nodes if n.name == "a")
    # No cast beside its quantizers: both dequantize into FP32 for it, and into FP16 for the sum.
    assert all(found.made_by(name, "DequantizeLinear") for name in conv.input[:2])
    assert found.types[next(n for n in found.nodes if n.name == "sum").input[1]] == HALF


def test_an_almost_dead_channel_is_widened_instead() -> None:
    def change(model: onnx.ModelProto) -> None:
        set_scale(model, "a", 0.001, 6)
        store(model, "a_scale", np.array([1e-3, 1e-3, 1e-9, 1e-3, 1e-6, 1e-3], np.float32))

    half = block(change)
    assert half.kept == {}
    found = graph(half)
    reader = next(n for n in found.nodes if n.name == "dq_a")
    codes, steps = found.value(reader.input[0]), found.value(reader.input[1])
    assert codes is not None and steps is not None
    np.testing.assert_allclose(np.asarray(steps, np.float64)[[2, 4]], 2.0**-16)
    assert not codes[2].any() and np.abs(codes[4].astype(int)).max() == round(127e-6 * 2**16)
    assert np.abs(codes[0].astype(int)).max() == 127


def test_an_activation_with_fine_steps_is_quantized_in_float32() -> None:
    half = block(lambda m: set_scale(m, "h", 1e-6))
    found = graph(half)
    quantizer = next(n for n in found.nodes if n.name == "q_h")
    assert found.types[quantizer.input[0]] == FLOAT
    assert half.kept == {"b": "the steps of its integers are too fine for FP16"}


def test_a_bias_that_vanishes_beside_larger_ones_may_do_so() -> None:
    half = block(lambda m: store(m, "a_bias", np.array([1, 1e-12, 1, 1, 1, 1], np.float32)))
    assert half.kept == {}


def test_nothing_is_rounded_between_two_operations_in_float32() -> None:
    """The squares of 1,000 do not fit into FP16, nor does their mean; the result does."""
    x = 1000 * samples(4, 6, 16)
    module, spec = trace(Handwritten(), x)
    model = export_onnx(module, (x,), spec, opset=20)
    half = to_half(model)
    (before,), (after,) = (run_onnx(m, spec, x) for m in (model, with_rounding(half.model)))
    np.testing.assert_allclose(after, before, atol=2e-3)


def test_rounding_shows_an_overflow_that_onnx_runtime_hides() -> None:
    class Overflow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x))

    net = Overflow()
    with torch.no_grad():
        net.up.weight.fill_(30000.0)
        net.down.weight.fill_(1e-4)
    x = torch.ones(2, 4)
    module, spec = trace(net, x)
    half = to_half(export_onnx(module, (x,), spec, opset=20)).model
    assert np.isfinite(run_onnx(half, spec, x)[0]).all()
    run = with_rounding(half)
    assert not np.isfinite(run_onnx(run, spec, x)[0]).any()
    feed = {spec.inputs[0].name: x.numpy()}
    assert first_not_finite(run, feed) == "the rounding of up"
    assert first_not_finite(run, {spec.inputs[0].name: np.zeros((2, 4), np.float32)}) is None


def test_an_output_that_is_read_inside_too_is_given_back_once() -> None:
    class TwoEnds(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.relu(x)
            return y, torch.softmax(y, -1)

    x = samples(2, 5)
    module, spec = trace(TwoEnds(), x)
    model = export_onnx(module, (x,), spec, opset=20)
    for before, after in zip(
        run_onnx(model, spec, x), run_onnx(to_half(model).model, spec, x), strict=True
    ):
        np.testing.assert_allclose(after, before, atol=1e-3)


def test_integers_are_left_alone() -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids).mean(1))

    ids = torch.arange(12).reshape(4, 3) % 9
    module, spec = trace(Lookup(), ids)
    model = export_onnx(module, (ids,), spec, opset=20)
    half = to_half(model)
    found = graph(half)
    assert found.types[spec.inputs[0].name] == TensorProto.INT64
    assert found.types[nodes_of(half.model, "Gather")[0].output[0]] == HALF
    np.testing.assert_allclose(
        run_onnx(half.model, spec, ids)[0], run_onnx(model, spec, ids)[0], atol=2e-3
    )


def test_an_old_opset_is_refused() -> None:
    with pytest.raises(ExportError, match="opset 19 or newer, not 17"):
        to_half(good_block().SerializeToString())


def test_a_graph_in_a_graph_is_refused() -> None:
    value = helper.make_tensor_value_info("u", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Relu", ["s"], ["u"])], "body", [], [value])

    def branch(model: onnx.ModelProto) -> None:
        store(model, "c", np.array(True))
        both = {"then_branch": body, "else_branch": body}
        insert(model, "last", helper.make_node("If", ["c"], ["i"], "if", **both))
        node(model, "last").input[0] = "i"

    with pytest.raises(ExportError, match="has a graph inside"):
        block(branch)
