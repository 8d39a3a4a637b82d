"""Exits behind quantize: integer heads, and no step at the cut that was not there."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exits import open_session
from marks import with_slow
from networks import IMAGE, ResNet, build, run_onnx, samples
from states import inputs, make_state

from benchmarks.networks.vit import VisionTransformer
from edgekd.cache import StepCache
from edgekd.device import load_profile
from edgekd.export.deployed import export_for
from edgekd.export.kernels import read_kernels
from edgekd.export.segments import ExitOutput, split
from edgekd.export.tensorrt_rules import check_tensorrt
from edgekd.graph.batchnorm_mode import reestimate_batch_norm
from edgekd.graph.program import output_tensors
from edgekd.progress import Silent
from edgekd.recipe import Calibration, EarlyExitStage, ExitHeads, QuantizeStage
from edgekd.stages import early_exit, quantize
from edgekd.state import CompressionState
from edgekd.training_settings import Distill

HEADS = ExitHeads(epochs=2, batch_size=16, augment="none", learning_rate=0.02)
EXITS = EarlyExitStage(
    stage="early_exit", at=("blocks.0", "blocks.1"), joint=None, heads=HEADS, candidates=2
)
INTEGERS = QuantizeStage(
    stage="quantize", distill=None, calibration=Calibration(method="minmax", samples=64)
)


def run(state: CompressionState, *stages: Any) -> CompressionState:
    for options in stages:
        module = early_exit if isinstance(options, EarlyExitStage) else quantize
        module.requires(state, options)
        state = module.run(state, options, Silent())
    return state


def exported(state: CompressionState) -> bytes:
    return export_for(state.profile, state.model, state.example, state.full_spec).onnx


def steps(model: bytes) -> Counter[str]:
    graph = onnx.load_from_string(model).graph
    return Counter(n.op_type for n in graph.node if "Quantize" in n.op_type)


TARGETS = ["cpu", "jetson"]
cpu_is_enough = pytest.mark.parametrize("state", with_slow(TARGETS, ["jetson"]), indirect=True)


@pytest.fixture(scope="module", params=TARGETS)
def state(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> CompressionState:
    folder = tmp_path_factory.mktemp("state")
    made = make_state(build(ResNet), IMAGE, folder, classes=5)
    reestimate_batch_norm(made.model, [(inputs(made, 64),)])
    return replace(made, profile=load_profile(request.param), cache=StepCache(folder / "cache"))


@pytest.fixture(scope="module")
def integers(state: CompressionState) -> CompressionState:
    return run(state, INTEGERS)


@pytest.fixture(scope="module")
def behind(integers: CompressionState) -> CompressionState:
    return run(integers, EXITS)


@pytest.mark.slow
@cpu_is_enough
def test_heads_read_the_integers_of_the_cut(
    state: CompressionState, integers: CompressionState, behind: CompressionState
) -> None:
    jetson = replace(state, profile=load_profile("jetson"))  # places by its figures, none timed
    before = run(jetson, EXITS)
    together = run(replace(before, profile=state.profile), INTEGERS)
    assert steps(exported(behind)) == steps(exported(together))
    with_heads, alone = steps(exported(behind)), steps(exported(integers))
    assert with_heads["QuantizeLinear"] > alone["QuantizeLinear"]


@cpu_is_enough
def test_the_final_output_is_the_same_to_the_last_bit_in_torch_and_onnx(
    state: CompressionState, integers: CompressionState, behind: CompressionState
) -> None:
    x = samples(17, *IMAGE, seed=5)
    with torch.no_grad():
        before = output_tensors(integers.model(x))
        after = output_tensors(behind.model(x))
    assert torch.equal(before[0], after[0]) and len(after) == 3
    (plain,) = run_onnx(exported(integers), state.spec, x)
    assert np.array_equal(plain, run_onnx(exported(behind), behind.full_spec, x)[0])


@cpu_is_enough
def test_heads_follow_what_they_were_in_float(
    integers: CompressionState, behind: CompressionState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_exit, "quantize_heads", lambda state, module, *_: module)
    in_float = run(integers, EXITS)  # the same seed: the same heads
    x = inputs(behind, 48)
    with torch.no_grad():
        _, *expected = output_tensors(in_float.model(x))
        _, *found = output_tensors(behind.model(x))
    for was, now in zip(expected, found, strict=True):
        assert 0 < (was - now).norm() < 0.1 * was.norm()


def test_every_layer_of_every_segment_runs_on_integers(behind: CompressionState) -> None:
    if behind.profile.runtime != "onnxruntime":
        pytest.skip("kernels are read from ONNX Runtime")
    own = [tensor.name for tensor in behind.spec.outputs]
    segments = split(exported(behind), own, [ExitOutput(e.name) for e in behind.exits])
    for segment in segments:
        layers = [
            x for x in read_kernels(segment.model).layers if x.op in ("Conv", "Gemm", "MatMul")
        ]
        assert layers and all(layer.precision != "float32" for layer in layers), layers
    links = [segment.link for segment in segments[1:]]
    assert all(link is not None and link.dtype in ("int8", "uint8") for link in links)


@pytest.mark.slow
def test_no_segment_breaks_a_rule_of_tensorrt(behind: CompressionState) -> None:
    if behind.profile.runtime != "tensorrt":
        pytest.skip("for TensorRT only")
    own = [tensor.name for tensor in behind.spec.outputs]
    for kind in ("probability", "margin", "entropy"):
        exits = [ExitOutput(e.name, 1.7, kind) for e in behind.exits]  # type: ignore[arg-type]
        for segment in split(exported(behind), own, exits):
            assert check_tensorrt(segment.model, opset=behind.profile.opset) == ()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    """A quantized transformer: its tensors are lists of all tokens of a batch."""
    folder = tmp_path_factory.mktemp("tokens")
    net = build(lambda: VisionTransformer(16, 4, 2, 32, 8, 32, 5))
    made = make_state(net, (3, 32, 32), folder, classes=5)
    return run(replace(made, cache=StepCache(folder / "cache")), INTEGERS)


@pytest.mark.slow
def test_exits_behind_a_quantized_list_of_tokens(tokens: CompressionState) -> None:
    behind = run(tokens, EXITS.model_copy(update={"at": ("layers.0", "layers.2")}))
    assert [exit_.head for exit_ in behind.exits] == ["local", "attention"]
    x = samples(6, 3, 32, 32, seed=5)
    with torch.no_grad():
        before = output_tensors(tokens.model(x))
        after = output_tensors(behind.model(x))
        alone = output_tensors(behind.model(x[4:5]))
    assert torch.equal(before[0], after[0])
    for several, one in zip(after[1:], alone[1:], strict=True):
        assert several.shape == (6, 5)
        torch.testing.assert_close(several[4:5], one, rtol=0.05, atol=0.05)
    model = exported(behind)
    own = [tensor.name for tensor in behind.spec.outputs]
    feed: dict[str, Any] = {behind.spec.inputs[0].name: x.numpy()}
    for segment in split(model, own, [ExitOutput(e.name) for e in behind.exits]):
        session = open_session(segment.model)
        names = [value.name for value in session.get_outputs()]
        given = {value.name: feed[value.name] for value in session.get_inputs()}
        feed |= dict(zip(names, session.run(None, given), strict=True))
    for name, expected in zip(
        [tensor.name for tensor in behind.full_spec.outputs],
        run_onnx(model, behind.full_spec, x),
        strict=True,
    ):
        assert np.array_equal(feed[name], expected)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            {
                "rounding": "adaround",
                "rounding_steps": 3,
                "bias_correction": True,
                "equalize": True,
            },
            marks=pytest.mark.slow,
        ),
        {"distill": Distill(epochs=1, batch_size=32, feature_weight=1.0), "learn_step_sizes": True},
        {"sensitivity": True, "sensitivity_samples": 16},
    ],
)
def test_every_way_to_quantize_takes_a_program_with_exits(
    behind: CompressionState, settings: dict[str, Any], with_float_heads: CompressionState
) -> None:
    if behind.profile.runtime != "tensorrt":
        pytest.skip("one target is enough")
    result = run(with_float_heads, INTEGERS.model_copy(update=settings))
    assert result.exits == with_float_heads.exits
    x = samples(6, *IMAGE, seed=7)
    with torch.no_grad():
        expected, found = (output_tensors(s.model(x)) for s in (with_float_heads, result))
    for was, now in zip(expected, found, strict=True):
        assert (was - now).norm() < 0.15 * was.norm()
    rows = result.details.get("sensitivity", {}).get("rows", [])  # the model's own output counts
    assert all(row["damage"] == 0 for row in rows if row["layer"].startswith("exits."))
    assert not rows or any(row["damage"] > 0 for row in rows)


@pytest.fixture(scope="module")
def with_float_heads(state: CompressionState) -> CompressionState:
    return run(replace(state, profile=load_profile("jetson")), EXITS)
