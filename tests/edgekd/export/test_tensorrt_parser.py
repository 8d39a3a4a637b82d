"""The real thing as far as it goes without a GPU: the parser and builder of TensorRT-RTX.

It is the parser of TensorRT 11, so it does not tell what 8.5 takes. Its package is proprietary and
optional: ``pip install "edgekd[trt-check]"``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exits import NETWORKS as CASCADES
from exits import segments_of
from networks import NETWORKS, build, quantize, samples
from tensorrt_graphs import (
    asymmetric_uint8,
    exported,
    exported_half,
    foreign_operator,
    good_block,
    integer_bias,
    negative_scale,
    shifted_zero_point,
    spoiled,
    uint8,
    unknown_operator,
    weight_decoded_by_hand,
)
from torch import nn

from benchmarks.networks.mobilenet import mobilenet
from benchmarks.networks.vit import VisionTransformer, vit
from edgekd.device import load_profile
from edgekd.export.half import to_half
from edgekd.export.onnx import export_onnx
from edgekd.export.tensorrt_rules import check_tensorrt
from edgekd.export.tensorrt_rules.operators import (
    UNKNOWN_OPERATORS,
    UNKNOWN_TO_8_4,
    UNKNOWN_TO_8_5,
)

trt = pytest.importorskip(
    "tensorrt_rtx",
    reason="needs TensorRT-RTX: pip install 'edgekd[trt-check]'",
    exc_type=ImportError,
)


class Log(trt.ILogger):  # type: ignore[name-defined,misc]
    """Keeps what TensorRT says instead of printing it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.Severity.WARNING:
            self.lines.append(message)


@pytest.fixture(scope="module")
def log() -> Log:
    return Log()


@pytest.fixture(scope="module")
def builder(log: Log) -> Any:
    return trt.Builder(log)


def parse(builder: Any, log: Log, model: bytes) -> tuple[Any, list[tuple[str, str]]]:
    """Return the network, and (node, reason) of everything that the parser refuses."""
    log.lines.clear()
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    accepted = parser.parse(model)
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    assert accepted == (not errors)
    return network, [(error.node_name(), error.desc()) for error in errors]


def unexpected(log: Log) -> list[str]:
    """Return what TensorRT said, but for its note that it widens FP16 scales of convolutions."""
    return [line for line in log.lines if "scales to fp32" not in line]


def build_engine(builder: Any, network: Any) -> Any:
    """Build an engine for the GPU of a desktop, which needs none here."""
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        given = network.get_input(index)
        rest = tuple(given.shape)[1:]
        profile.set_shape(given.name, (1, *rest), (1, *rest), (8, *rest))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    return builder.build_serialized_network(network, config)


class Basic(nn.Module):
    """A block of ResNet-20 with the shortcut that pads channels (He et al. 2015, section 4.2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = outputs // inputs
        self.a = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.b = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm_b(self.b(torch.relu(self.norm_a(self.a(x)))))
        if self.stride > 1:
            quarter = y.shape[1] // 4
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return torch.relu(x + y)


def resnet20() -> nn.Module:
    blocks = [Basic(a, b) for a, b in zip([16, *WIDTHS], WIDTHS, strict=False)]
    stem = (nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(*stem, *blocks, *pool)


WIDTHS = [16] * 3 + [32] * 3 + [64] * 3
REAL = {
    "resnet20": resnet20,
    "mobilenet": mobilenet,
    "vit": vit,
    "small vit": lambda: VisionTransformer(width=32, depth=1, heads=2, hidden=64, patch=8),
}


@pytest.fixture(scope="module", params=REAL)
def both_exports(request: Any) -> dict[str, bytes]:
    """Return a network of the benchmarks as each of the two profiles for Jetson gets it."""
    found = quantize(build(REAL[request.param]), samples(4, 3, 32, 32), runtime="tensorrt")
    example = tuple(x[:2] for x in found.inputs)
    older = export_onnx(found.converted, example, found.spec, opset=17, layer_norm="decomposed")
    return {"jetson-orin-nano": older, "jetson-orin-nano-jetpack7": to_half(found.onnx(20)).model}


@pytest.mark.parametrize("profile", ["jetson-orin-nano", "jetson-orin-nano-jetpack7"])
def test_an_engine_is_built_of_the_networks_of_the_benchmarks(
    builder: Any, log: Log, both_exports: dict[str, bytes], profile: str
) -> None:
    model = both_exports[profile]
    assert check_tensorrt(model, opset=load_profile(profile).opset) == ()
    network, errors = parse(builder, log, model)
    assert errors == []
    engine = build_engine(builder, network)
    assert engine is not None and engine.nbytes > 0
    assert unexpected(log) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_an_engine_is_built_of_every_export_in_float16(builder: Any, log: Log, name: str) -> None:
    network, errors = parse(builder, log, exported_half(name))
    assert errors == []
    types = {network.get_layer(i).get_output(0).dtype for i in range(network.num_layers)}
    assert trt.float16 in types and trt.int8 in types
    assert build_engine(builder, network) is not None
    assert unexpected(log) == []


@pytest.mark.parametrize("name", [*NETWORKS, "by hand"])
def test_an_engine_is_built_of_every_export(builder: Any, log: Log, name: str) -> None:
    model = good_block().SerializeToString() if name == "by hand" else exported(name)
    network, errors = parse(builder, log, model)
    assert errors == []
    engine = build_engine(builder, network)
    assert engine is not None and engine.nbytes > 0
    assert log.lines == []


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (asymmetric_uint8, "int8"),
        (shifted_zero_point, "zero-points"),
        (negative_scale, "scales"),
        (integer_bias, "float-biases"),
        (unknown_operator, "operators"),
        (foreign_operator, "operators"),
    ],
)
def test_what_the_parser_refuses_breaks_a_rule_at_the_same_node(
    builder: Any, log: Log, spoil: Any, rule: str
) -> None:
    model = spoiled(spoil)
    _, errors = parse(builder, log, model)
    found = {violation.node for violation in check_tensorrt(model) if violation.rule == rule}
    assert errors and errors[0][0] in found


def test_uint8_is_read_as_int8_which_only_a_warning_and_our_rule_tell(
    builder: Any, log: Log
) -> None:
    model = spoiled(uint8)
    _, errors = parse(builder, log, model)
    assert errors == [] and "Defaulting to INT8" in log.lines[0]
    assert {violation.rule for violation in check_tensorrt(model)} == {"int8"}


def test_integers_decoded_by_hand_are_refused_by_the_builder(builder: Any, log: Log) -> None:
    model = spoiled(weight_decoded_by_hand)
    network, errors = parse(builder, log, model)
    assert errors == [] and build_engine(builder, network) is None
    assert "only allowed before DQ" in log.lines[0]
    assert {violation.rule for violation in check_tensorrt(model)} == {"stored-weights"}


def test_the_list_of_operators_is_the_parsers(builder: Any, log: Log) -> None:
    parser = trt.OnnxParser(builder.create_network(0), log)
    assert not [name for name in sorted(UNKNOWN_OPERATORS) if parser.supports_operator(name)]
    assert all(parser.supports_operator(name) for name in UNKNOWN_TO_8_5 | UNKNOWN_TO_8_4)


@pytest.mark.parametrize("name", CASCADES)
def test_an_engine_is_built_of_every_segment(builder: Any, log: Log, name: str) -> None:
    for segment in segments_of(name, "tensorrt"):
        network, errors = parse(builder, log, segment.model)
        assert errors == []
        links = [network.get_input(i) for i in range(network.num_inputs)]
        types = {given.dtype for given in links if segment.link and given.name == segment.link.name}
        assert name != "cnn" or types <= {trt.int8}
        assert build_engine(builder, network) is not None
        assert [line for line in log.lines if "Int64 binding" not in line] == []
