"""Real engines of every kind of graph that edgekd exports, by the process that production runs.

TensorRT-RTX builds without a GPU; its package is proprietary and optional:
``pip install "edgekd[trt-check]"``. What plain TensorRT and a GPU do is in ``test_on_gpu.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
import pytest
from exits import segments_of
from marks import with_slow
from networks import NETWORKS
from tensorrt_graphs import (
    asymmetric_uint8,
    exported,
    exported_half,
    foreign_operator,
    good_block,
    integer_bias,
    shifted_zero_point,
    spoiled,
    unknown_operator,
    weight_decoded_by_hand,
)

from edgekd.engine.binding import RTX, Binding, open_binding
from edgekd.engine.build import build
from edgekd.engine.plan import BuildPlan
from edgekd.errors import BundleError
from edgekd.runtime.cuda import why_no_gpu
from edgekd.runtime.engine_manifest import ShapeRange

pytest.importorskip(
    "tensorrt_rtx",
    reason="needs TensorRT-RTX: pip install 'edgekd[trt-check]'",
    exc_type=ImportError,
)
NO_GPU = pytest.mark.skipif(why_no_gpu() is None, reason="this machine has a GPU")
FIRST, *OTHERS = NETWORKS


@pytest.fixture(scope="module")
def binding() -> Binding:
    return open_binding(RTX)


def plan_of(model: bytes, **changed: Any) -> BuildPlan:
    """Batches of 1 to 8 of every input, for a desktop's GPU."""
    graph = onnx.load_from_string(model).graph
    shapes = {}
    for value in graph.input:
        rest = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])
        shapes[value.name] = ShapeRange((1, *rest), (1, *rest), (8, *rest))
    plan = BuildPlan("model.onnx", shapes, compute_capabilities=("8.6",))
    return replace(plan, **changed)


@pytest.mark.parametrize("name", with_slow(NETWORKS, OTHERS))
@pytest.mark.parametrize("make", [exported, exported_half], ids=["float32", "float16"])
def test_an_engine_is_built_of_every_export(binding: Binding, name: str, make: Any) -> None:
    model = make(name)
    built = build(binding, model, plan_of(model))
    assert len(built.engine) > 1000
    assert built.strongly_typed and built.compute_capabilities == ("8.6",)
    assert built.flags == () and built.seconds > 0


@pytest.mark.slow
def test_an_engine_is_built_of_every_segment(binding: Binding) -> None:
    for segment in segments_of("cnn", "tensorrt"):
        assert build(binding, segment.model, plan_of(segment.model)).engine


@pytest.mark.parametrize(
    "spoil",
    [asymmetric_uint8, shifted_zero_point, integer_bias, unknown_operator, foreign_operator],
)
def test_a_bad_graph_is_refused_by_the_name_of_its_node(binding: Binding, spoil: Any) -> None:
    model = spoiled(spoil)
    names = {node.name for node in onnx.load_from_string(model).graph.node}
    with pytest.raises(BundleError, match="cannot read the model: ") as caught:
        build(binding, model, plan_of(model))
    node = str(caught.value).partition("cannot read the model: ")[2].partition(":")[0]
    assert node in names
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_refused(binding: Binding) -> None:
    plan = plan_of(good_block().SerializeToString())
    with pytest.raises(BundleError, match="cannot read the model"):
        build(binding, b"no model at all", plan)


def test_flags_of_the_plan_reach_the_builder(binding: Binding) -> None:
    model = good_block().SerializeToString()
    built = build(binding, model, plan_of(model, sparse=True, workspace_bytes=1 << 28))
    assert built.flags == ("SPARSE_WEIGHTS",)
    several = build(binding, model, plan_of(model, compute_capabilities=("8.6", "8.9")))
    assert several.compute_capabilities == ("8.6", "8.9")
    assert several.engine != built.engine
    assert build(binding, model, plan_of(model, hardware_compatible="ampere_plus")).engine


def test_what_this_version_lacks_is_refused_and_not_left_out(binding: Binding) -> None:
    model = good_block().SerializeToString()
    weak = replace(binding, version="8.6.1", name="tensorrt")  # as weakly typed versions are asked
    for wish, told in (("float16", "FP16"), ("int8", "INT8")):
        with pytest.raises(BundleError, match=f"has no {told}"):
            build(weak, model, plan_of(model, compute_capabilities=(), **{wish: True}))
    with pytest.raises(BundleError, match="0 DLA cores"):
        build(binding, model, plan_of(model, dla_core=0))
    with pytest.raises(BundleError, match=r"builds for compute capability 7\.5, .*not for 8\.7"):
        build(binding, model, plan_of(model, compute_capabilities=("8.7",)))


@NO_GPU
def test_without_a_gpu_somebody_has_to_say_for_which(binding: Binding) -> None:
    model = good_block().SerializeToString()
    with pytest.raises(BundleError, match="--compute-capability"):
        build(binding, model, plan_of(model, compute_capabilities=()))
    with pytest.raises(BundleError, match="no usable NVIDIA GPU"):
        open_binding("tensorrt")


def test_shapes_that_do_not_fit_are_refused(binding: Binding) -> None:
    model = good_block().SerializeToString()
    low, wrong = (1, 4, 8, 8), (1, 4, 9, 8)
    for shapes in ({"x": ShapeRange(low, low, wrong)}, {"x": ShapeRange((1,), (1,), (1,))}, {}):
        with pytest.raises(BundleError, match=r"plan('s shape| has no shapes)"):
            build(binding, model, plan_of(model, shapes=shapes))


def test_a_builder_that_gives_up_says_why(binding: Binding) -> None:
    """The parser takes weights that are decoded by a cast; the builder does not."""
    model = spoiled(weight_decoded_by_hand)
    with pytest.raises(BundleError, match=r"builds no engine: .*only allowed before DQ") as caught:
        build(binding, model, plan_of(model))
    assert "\n" not in str(caught.value) and "driver version" not in str(caught.value)
