"""TensorRT's rules, each with a graph that breaks it and nothing else."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from marks import with_slow
from networks import NETWORKS, network, quantize
from onnx import TensorProto, helper
from tensorrt_graphs import (
    SPOILED,
    dequantize,
    exported,
    exported_half,
    good_block,
    insert,
    insert_pair,
    node,
    set_scale,
    spoiled,
    store,
)

from edgekd.export.tensorrt_rules import RULES, check_tensorrt
from edgekd.export.tensorrt_rules.operators import unknown_to_oldest

IDS = [f"{rule}-{spoil.__name__}" for rule, _, spoil in SPOILED]


@pytest.mark.parametrize(
    "name", with_slow(NETWORKS, ["hardswish", "concat", "chain", "mlp", "mobile", "dense_output"])
)
def test_our_own_exports_break_no_rule(name: str) -> None:
    assert check_tensorrt(exported(name)) == ()


@pytest.mark.parametrize(
    "name", with_slow(NETWORKS, NETWORKS.keys() - {"resnet", "transformer", "two_inputs"})
)
def test_our_own_exports_in_float16_break_no_rule(name: str) -> None:
    assert check_tensorrt(exported_half(name), opset=20) == ()


def test_a_scale_has_the_type_of_its_data() -> None:
    model = onnx.load_from_string(exported_half("mlp"))
    first = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    store(model, "other", np.array(0.1, np.float16))
    first.input[1] = "other"  # the model's input is FP32
    (found,) = check_tensorrt(model.SerializeToString(), opset=20)
    assert (found.rule, found.node) == ("float16-scales", first.name)


def test_a_good_graph_breaks_no_rule() -> None:
    model = good_block()
    onnx.checker.check_model(model, full_check=True)
    assert check_tensorrt(model.SerializeToString()) == ()


@pytest.mark.parametrize(("rule", "place", "spoil"), SPOILED, ids=IDS)
def test_a_broken_rule_is_found_with_its_node(
    rule: str, place: str, spoil: Callable[[onnx.ModelProto], None]
) -> None:
    found = check_tensorrt(spoiled(spoil))
    assert {violation.rule for violation in found} == {rule}
    assert found[0].node == place
    assert ":" in found[0].message  # what is wrong: what to do


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    assert {rule for rule, _, _ in SPOILED} == set(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_says_where_it_comes_from(rule: Callable[..., object]) -> None:
    assert rule.__doc__ is not None and "Source: " in rule.__doc__


def test_weights_in_blocks_need_the_opset_that_has_them() -> None:
    net, inputs = network("transformer")
    found = quantize(net, *inputs, runtime="tensorrt", bits="w4a16", group_size=16)
    model = found.onnx(opset=21)
    assert check_tensorrt(model, opset=21) == ()
    assert {violation.rule for violation in check_tensorrt(model, opset=17)} == {"int8", "opset"}


def test_the_opset_allowed_is_the_targets() -> None:
    model = good_block()
    model.opset_import[0].version = 19
    assert check_tensorrt(model.SerializeToString(), opset=19) == ()
    (found,) = check_tensorrt(model.SerializeToString(), opset=18)
    assert found.to_dict() == {
        "rule": "opset",
        "node": "the model",
        "message": "opset 19 is newer than 18: export it older",
    }


def test_a_weight_in_float_behind_both_steps_is_fine() -> None:
    model = good_block()
    store(model, "a_float", np.ones((6, 4, 3, 3), np.float32))
    step = helper.make_node(
        "QuantizeLinear", ["a_float", "a_scale", "a_zero"], ["a_q"], "q_a", axis=0
    )
    insert(model, "dq_a", step)
    node(model, "dq_a").input[0] = "a_q"
    assert check_tensorrt(model.SerializeToString()) == ()


def test_the_shortcut_may_be_a_convolution_behind_a_quantizer() -> None:
    model = good_block()
    projection = helper.make_node("Conv", ["x_dq", "p_dq"], ["p"], "p")
    insert(model, "sum", dequantize("p_codes", "p", axis=0), projection)
    store(model, "p_codes", np.ones((4, 4, 1, 1), np.int8))
    set_scale(model, "p", 0.01, count=4)
    node(model, "sum").input[1] = "p"
    (found,) = check_tensorrt(model.SerializeToString())
    assert found.rule == "residual-sums"
    insert_pair(model, "sum", 1)
    assert check_tensorrt(model.SerializeToString()) == ()


@pytest.mark.parametrize(("transposed", "axis", "right"), [(0, 1, True), (1, 1, False)])
def test_a_matrix_product_has_a_scale_for_every_output(
    transposed: int, axis: int, right: bool
) -> None:
    model = good_block()
    tail = helper.make_node("Gemm", ["flat_dq", "g_dq"], ["y"], "g", transB=transposed)
    flatten = helper.make_node("Flatten", ["r"], ["flat"], "flatten")
    node(model, "last").output[0] = "r"
    model.graph.node.extend([flatten, tail])
    node(model, "g").input[0] = "flat"
    insert_pair(model, "g", 0)
    insert(model, "g", dequantize("g_codes", "g", axis=axis))
    store(model, "g_codes", np.ones((5, 256) if transposed else (256, 5), np.int8))
    set_scale(model, "g", 0.01, count=5 if not transposed else 256)
    found = {violation.rule for violation in check_tensorrt(model.SerializeToString())}
    assert found == (set() if right else {"weight-scales"})


def test_operators_in_branches_are_searched_too() -> None:
    model = good_block()
    inner = helper.make_node("Unique", ["s"], ["u"], "unique")
    value = helper.make_tensor_value_info("u", TensorProto.FLOAT, None)
    body = helper.make_graph([inner], "body", [], [value])
    both = {"then_branch": body, "else_branch": body}
    insert(model, "last", helper.make_node("If", ["c"], ["i"], "if", **both))
    assert {found.node for found in check_tensorrt(model.SerializeToString())} == {"unique"}


def test_operators_that_the_oldest_tensorrt_lacks_are_named() -> None:
    assert unknown_to_oldest(exported("transformer"), 17) == ("LayerNormalization",)
    assert unknown_to_oldest(exported("resnet"), 17) == ()
