"""Reading the inspector's JSON.

No machine with a GPU was at hand: the samples are written by hand after NVIDIA's TensorRT developer
guide, "Engine Inspector", and what its forms in 8 and 10 are documented to be.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.engine.layers import count_precisions, fallbacks, read_layers
from edgekd.errors import BundleError

INT8 = "Thirty-two wide channel vectorized row major Int8 format"
HALF = "Channel major FP16 format where channel % 8 == 0"
FLOAT = "Row major linear FP32"


def tensor(said: str) -> dict[str, Any]:
    return {"Name": "t", "Location": "Device", "Dimensions": [1, 8, 4, 4], "Format/Datatype": said}


def layer(name: str, said: str, kind: str = "CaskConvolution", **more: Any) -> dict[str, Any]:
    ends = {"Inputs": [tensor(said)], "Outputs": [tensor(said)]}
    return {"Name": name, "LayerType": kind, **ends, "TacticName": "sm80_xmma", **more}


def text(*layers: Any) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": ["x", "y"]})


EIGHT = text(
    layer("Reformatting CopyNode for Input Tensor 0 to stem + PWN(relu)", FLOAT, "Reformat"),
    layer("stem.weight + QuantizeLinear_3 + stem + PWN(relu)", INT8),
    layer("block.a || block.b", HALF),
    layer("head", FLOAT, "MatrixMultiply", TacticName="", TacticValue="0x12"),
)
TEN = text(
    layer("__myl_Quan_myl0_0", "Float", "kgen", Metadata="[ONNX Layer: quantize]"),
    layer("stem_myl0_1", "Int8", "gemm", Metadata="[ONNX Layer: stem]\x1f[ONNX Layer: relu]\x1e"),
    layer("ResCast", "Half", "fusion", Metadata="[ONNX Layer: block.a]\x1e[ONNX Layer: block.b]"),
    layer("copy", "Int8", "Reformat", Metadata="[ONNX Layer: block.a]"),
    layer("head_myl0_4", "Float", "gemm", Metadata="[ONNX Layer: head]"),
)


@pytest.mark.parametrize("found", [EIGHT, TEN], ids=["8", "10"])
def test_layers_off_the_integers_are_named_with_what_they_run_in(found: str) -> None:
    layers = read_layers(found)

    off = fallbacks(layers, ["stem", "block.a", "block.b", "head", "lost"])

    assert off == {
        "block.a": "float16",
        "block.b": "float16",
        "head": "float32",
        "lost": "unknown",
    }


def test_reads_kernels_types_and_times() -> None:
    stem = read_layers(EIGHT, {"stem.weight + QuantizeLinear_3 + stem + PWN(relu)": 0.25})[1]

    assert stem.onnx == ("stem.weight", "QuantizeLinear_3", "stem", "relu")
    assert (stem.inputs, stem.outputs, stem.kind) == (("int8",), ("int8",), "CaskConvolution")
    assert (stem.tactic, stem.milliseconds) == ("sm80_xmma", 0.25)
    assert read_layers(EIGHT)[3].tactic == "0x12"


def test_names_alone_leave_precisions_unknown() -> None:
    layers = read_layers(text("stem + relu", "head"))

    assert [found.onnx for found in layers] == [("stem", "relu"), ("head",)]
    assert fallbacks(layers, ["stem"]) == {"stem": "unknown"}
    assert count_precisions(layers) == {"unknown": 2}


def test_a_name_that_is_part_of_another_is_not_that_layer() -> None:
    assert fallbacks(read_layers(text(layer("block.a1", INT8))), ["block.a"]) == {
        "block.a": "unknown"
    }


@pytest.mark.parametrize("bad", ["", "[]", '{"Layers": 3}', '{"layers": []}', "null", '"x"'])
def test_refuses_what_no_inspector_wrote(bad: str) -> None:
    with pytest.raises(BundleError, match="engine inspector"):
        read_layers(bad)


NAMES = st.text(
    st.characters(codec="ascii", categories=("L", "N"), include_characters="._/"), min_size=1
)


@given(st.dictionaries(NAMES, st.sampled_from([INT8, HALF, FLOAT]), min_size=1, max_size=6))
def test_every_quantized_layer_is_either_on_integers_or_named(found: dict[str, str]) -> None:
    layers = read_layers(text(*(layer(name, said) for name, said in found.items())))

    off = fallbacks(layers, found)

    wanted = {HALF: "float16", FLOAT: "float32"}
    assert off == {name: wanted[said] for name, said in found.items() if said != INT8}
    assert sum(count_precisions(layers).values()) == len(found)
