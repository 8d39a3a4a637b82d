"""Segments one behind the other are the whole model, and what was quantized stays so."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from exits import CASES, EXITS, KINDS, OWN, exported, inputs_of, run, segments_of
from marks import with_slow
from networks import nodes_of, samples
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import ExportError
from edgekd.export.half import to_half
from edgekd.export.kernels import read_kernels
from edgekd.export.segments import ExitOutput, Segment, split, without_exits


def chain(segments: list[Segment], feed: dict[str, Any], **options: bool) -> dict[str, Any]:
    """Return all that a chain computes, every segment given what the ones before gave."""
    values = dict(feed)
    for segment in segments:
        values.update(run(segment.model, values, **options))
    return values


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_chain_gives_what_the_whole_model_gives(name: str, kind: str) -> None:
    model, spec = exported(name, kind)
    feed = inputs_of(name, 5)
    written = chain(segments_of(name, kind), feed, as_written=True)
    whole = run(model, feed, as_written=True)
    optimised, fast = chain(segments_of(name, kind), feed), run(model, feed)
    for tensor in spec.outputs:
        np.testing.assert_array_equal(written[tensor.name], whole[tensor.name])
        if (name, kind) == ("cnn", "float"):  # ONNX Runtime fuses float sums into convolutions
            np.testing.assert_allclose(optimised[tensor.name], fast[tensor.name], 1e-4, 1e-5)
        else:
            np.testing.assert_array_equal(optimised[tensor.name], fast[tensor.name])


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_segments_say_what_crosses(name: str, kind: str) -> None:
    model, _ = exported(name, kind)
    whole = onnx.load_from_string(model)
    segments = segments_of(name, kind)
    assert [segment.exit for segment in segments] == [*EXITS, None]
    assert segments[0].link is None
    for index, segment in enumerate(segments):
        proto = onnx.load_from_string(segment.model)
        assert proto.ir_version == whole.ir_version
        assert proto.opset_import == whole.opset_import
        inputs = [value.name for value in proto.graph.input]
        following = segments[index + 1].link if segment.exit else None
        if segment.link is not None:
            assert inputs[0] == segment.link.name and segment.link.shape[0] is None
            given = run(segments[index - 1].model, chain(segments[:index], inputs_of(name, 3)))
            crossing = given[segment.link.name]
            assert crossing.dtype == segment.link.dtype
            assert crossing.shape == (3, *segment.link.shape[1:])
        outputs = [value.name for value in proto.graph.output]
        last = [] if following is None else [segment.exit, "confidence", following.name]
        assert outputs == (last or list(OWN))


def test_integer_links_leave_the_same_kernels_and_add_no_quantizer() -> None:
    model, _ = exported("cnn", "onnxruntime")
    segments = segments_of("cnn", "onnxruntime")
    assert [s.link.dtype for s in segments if s.link] == ["uint8", "uint8"]
    whole, parts = read_kernels(model), [read_kernels(s.model) for s in segments]
    assert {layer.precision for layer in whole.layers} == {"int8"}
    kernels = {layer.name: layer.kernel for part in parts for layer in part.layers}
    assert kernels.items() >= {layer.name: layer.kernel for layer in whole.layers}.items()
    operations: Counter[str] = sum((Counter(part.operations) for part in parts), Counter())
    for quantizer in ("QuantizeLinear", "DequantizeLinear"):
        assert operations[quantizer] == whole.operations.get(quantizer, 0)


def test_a_head_that_reads_floats_leaves_the_link_to_integers() -> None:
    """For TensorRT a quantizer stands behind the cut; it runs before it, so that codes cross."""
    segments = segments_of("cnn", "tensorrt")
    assert [s.link.dtype for s in segments if s.link] == ["int8", "int8"]
    (pool,) = nodes_of(segments[1].model, "AveragePool", "GlobalAveragePool", "ReduceMean")
    assert pool.input[0] in [node.output[0] for node in nodes_of(segments[1].model, "Relu")]
    count = sum(len(nodes_of(s.model, "QuantizeLinear")) for s in segments)
    assert count == len(nodes_of(exported("cnn", "tensorrt")[0], "QuantizeLinear"))


@pytest.mark.parametrize("kind", with_slow(KINDS, ["onnxruntime", "tensorrt"]))
def test_a_mask_is_computed_again_and_not_passed_on(kind: str) -> None:
    segments = segments_of("encoder", kind)
    inputs = [[v.name for v in onnx.load_from_string(s.model).graph.input] for s in segments]
    assert inputs[0] == ["ids", "mask"]
    assert [names[1:] for names in inputs[1:]] == [["mask"], ["mask"]]


@pytest.mark.slow
def test_rows_of_tokens_cross_as_samples() -> None:
    """Linear layers read ``(N * tokens, width)``, but a batch is cut by samples."""
    link = segments_of("encoder", "onnxruntime")[1].link
    assert link is not None and link.shape == (None, 6, 16) and link.name.endswith("/samples")


@pytest.mark.parametrize("kept", [["output_1"], ["output_2"]])
def test_exits_can_be_left_out(kept: list[str]) -> None:
    model, _ = exported("cnn", "onnxruntime")
    segments = segments_of("cnn", "onnxruntime", *kept)
    feed = inputs_of("cnn", 4)
    found, whole = chain(segments, feed), run(model, feed)
    for name in (*OWN, *kept):
        np.testing.assert_array_equal(found[name], whole[name])
    dropped = next(name for name in EXITS if name not in kept)
    assert dropped not in found
    layers = [n.name for s in segments for n in nodes_of(s.model, "Gemm", "Conv")]
    assert len(layers) == len(set(layers)) < len(nodes_of(model, "Gemm", "Conv"))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_model_without_exits_has_no_trace_of_them(name: str, kind: str) -> None:
    model, spec = exported(name, kind)
    bare = without_exits(model, OWN)
    feed = inputs_of(name, 4)
    np.testing.assert_array_equal(run(bare, feed)["output_0"], run(model, feed)["output_0"])
    proto = onnx.load_from_string(bare)
    assert [v.name for v in proto.graph.output] == ["output_0"]
    assert [v.name for v in proto.graph.input] == [t.name for t in spec.inputs]
    assert len(nodes_of(bare, "Gemm")) == len(nodes_of(model, "Gemm")) - 2
    read = {name for node in proto.graph.node for name in node.input}
    assert {tensor.name for tensor in proto.graph.initializer} <= read


def test_half_precision_crosses_as_it_is() -> None:
    half = to_half(exported("cnn", "tensorrt", 20)[0]).model
    segments = split(half, OWN, [ExitOutput(name) for name in EXITS])
    feed = inputs_of("cnn", 3)
    found, whole = chain(segments, feed, as_written=True), run(half, feed, as_written=True)
    np.testing.assert_array_equal(found["output_0"], whole["output_0"])
    halves = split(to_half(exported("cnn", "float", 20)[0]).model, OWN, [ExitOutput("output_2")])
    assert halves[1].link is not None and halves[1].link.dtype == "float16"


def graph(nodes: list[onnx.NodeProto], outputs: dict[str, list[Any]], **stored: Any) -> bytes:
    def value(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    made = helper.make_graph(
        nodes,
        "graph",
        [value("x", ["batch", 4])],
        [value(name, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()


W = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
ENDS = {"y": ["batch", 4], "e": ["batch", 4]}


def matmul(source: str, result: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", [source, "w"], [result], result)


def test_two_live_tensors_are_named() -> None:
    model = graph(
        [
            matmul("x", "a"),
            matmul("a", "b"),
            matmul("b", "e"),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ],
        ENDS,
        w=W,
    )
    with pytest.raises(ExportError, match=r"e cannot be cut off: .* 2 tensors .*\(a, b\)"):
        split(model, ["y"], [ExitOutput("e")])


def test_what_needs_no_weight_is_done_again_on_both_sides() -> None:
    """The rest reads ``a`` and its rectified form: ``a`` alone crosses."""
    model = graph(
        [
            matmul("x", "a"),
            helper.make_node("Relu", ["a"], ["r"]),
            matmul("r", "e"),
            matmul("r", "b"),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ],
        ENDS,
        w=W,
    )
    segments = split(model, ["y"], [ExitOutput("e")])
    assert segments[1].link is not None and segments[1].link.name == "a"
    feed = {"x": samples(3, 4).numpy()}
    np.testing.assert_array_equal(chain(segments, feed)["y"], run(model, feed)["y"])


def test_rows_that_do_not_lie_together_are_refused() -> None:
    """``(tokens, N, width)`` flattened has the same shape as ``(N, tokens, width)`` flattened."""
    model = graph(
        [
            helper.make_node("Reshape", ["x", "pairs"], ["p"]),
            helper.make_node("Transpose", ["p"], ["t"], perm=[1, 0, 2]),
            helper.make_node("Reshape", ["t", "rows"], ["flat"]),
            helper.make_node("MatMul", ["flat", "v"], ["a"]),
            *(
                node
                for end in "ey"
                for node in (
                    helper.make_node("Reshape", ["a", "back"], [f"{end}0"]),
                    helper.make_node("Transpose", [f"{end}0"], [f"{end}1"], perm=[1, 0, 2]),
                    helper.make_node("Reshape", [f"{end}1", "four"], [end]),
                )
            ),
        ],
        ENDS,
        v=W[:2, :2],
        pairs=[-1, 2, 2],
        rows=[-1, 2],
        back=[2, -1, 2],
        four=[-1, 4],
    )
    with pytest.raises(ExportError, match="do not lie together in a"):
        split(model, ["y"], [ExitOutput("e")])


def test_bad_requests_are_refused() -> None:
    model, _ = exported("cnn", "float")
    with pytest.raises(ExportError, match=r"no output 'exit_9', only output_0, output_1, output_2"):
        split(model, OWN, [ExitOutput("exit_9")])
    with pytest.raises(ExportError, match="no output 'y'"):
        without_exits(model, ["y"])
    with pytest.raises(ExportError, match="asked for twice"):
        split(model, OWN, [ExitOutput("output_1"), ExitOutput("output_1")])
    with pytest.raises(ExportError, match="output_2 cannot be cut off"):
        split(model, OWN, [ExitOutput("output_2"), ExitOutput("output_1")])
    twice = graph(
        [matmul("x", "a"), matmul("a", "e"), matmul("a", "f"), matmul("a", "y")],
        {**ENDS, "f": ["batch", 4]},
        w=W,
    )
    with pytest.raises(ExportError, match="e and f leave at the same tensor"):
        split(twice, ["y"], [ExitOutput("e"), ExitOutput("f")])
    alone = graph([matmul("x", "e"), matmul("x", "y")], ENDS, w=W)
    with pytest.raises(ExportError, match="reads nothing of what was computed"):
        split(alone, ["y"], [ExitOutput("e")])
