"""The real thing as far as it goes without a GPU: the parser and builder of TensorRT-RTX.

It is the parser of TensorRT 11, so it does not tell what 8.5 takes. Its package is proprietary and
optional: ``pip install "edgekd[trt-check]"``.
"""

from __future__ import annotations

from typing import Any

import pytest
from networks import NETWORKS
from tensorrt_graphs import (
    asymmetric_uint8,
    exported,
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

from edgekd.export.tensorrt_rules import UNKNOWN_OPERATORS, UNKNOWN_TO_8_5, check_tensorrt

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


def build(builder: Any, network: Any) -> Any:
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


@pytest.mark.parametrize("name", [*NETWORKS, "by hand"])
def test_an_engine_is_built_of_every_export(builder: Any, log: Log, name: str) -> None:
    model = good_block().SerializeToString() if name == "by hand" else exported(name)
    network, errors = parse(builder, log, model)
    assert errors == []
    engine = build(builder, network)
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
    assert errors == [] and build(builder, network) is None
    assert "only allowed before DQ" in log.lines[0]
    assert {violation.rule for violation in check_tensorrt(model)} == {"stored-weights"}


def test_the_list_of_operators_is_the_parsers(builder: Any, log: Log) -> None:
    parser = trt.OnnxParser(builder.create_network(0), log)
    assert not [name for name in sorted(UNKNOWN_OPERATORS) if parser.supports_operator(name)]
    assert all(parser.supports_operator(name) for name in UNKNOWN_TO_8_5)
