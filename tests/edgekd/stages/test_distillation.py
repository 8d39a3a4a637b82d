"""Distillation as recipes ask for it, on a small network that is fake-quantized for real."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import states
import torch
from networks import IMAGE, ResNet, build
from states import inputs, make_state
from torch import fx, nn

from edgekd.errors import StageError
from edgekd.graph.program import clone, output_nodes
from edgekd.progress import Silent
from edgekd.quantize.taps import find_taps
from edgekd.recipe import QuantizeStage
from edgekd.stages import quantize
from edgekd.stages.distillation import distill
from edgekd.stages.distillation_loss import distillation_loss
from edgekd.state import CompressionState
from edgekd.training_settings import Distill

CPU = torch.device("cpu")
LOSSES = ("kl", "standardized-kl", "top-k-kl", "mse")
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 3e-4,
    "top_k": 2,
}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    return make_state(build(ResNet), IMAGE, tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def programs(state: CompressionState) -> tuple[fx.GraphModule, fx.GraphModule]:
    return states.programs(state)


def run(state: CompressionState, programs: Any, **changed: Any) -> tuple[Any, fx.GraphModule]:
    original, student = programs[0], clone(programs[1])
    device = changed.pop("device", CPU)
    options = Distill(**{**SETTINGS, **changed})
    taps = find_taps(student, original)
    details = distill(
        state, original, student, options, Silent(), title="t", taps=taps, device=device
    )
    return details, student


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("feature_weight", [0.0, 1.0])
def test_every_loss_falls_on_samples_that_training_does_not_see(
    state: CompressionState, programs: Any, loss: str, feature_weight: float
) -> None:
    details, student = run(state, programs, loss=loss, feature_weight=feature_weight)
    before, after = details["held_out_loss"]
    assert details["distillation_kept"] and after < 0.9 * before
    assert len(details["train_loss"]) == 2 and details["trained_on"] == "cpu"
    assert {p.device for p in student.parameters()} == {CPU}


def test_features_follow_the_teacher_when_they_are_asked_for(
    state: CompressionState, programs: Any
) -> None:
    def errors(student: fx.GraphModule) -> float:
        options = Distill(loss="kl", feature_weight=1e6)  # what is left is the features
        taps = find_taps(student, programs[0])
        loss = distillation_loss(student, programs[0], options, classification=True, taps=taps)
        with torch.no_grad():
            return float(loss((inputs(state, 40),), None)) / 1e6

    _, plain = run(state, programs, loss="kl")
    _, matched = run(state, programs, loss="kl", feature_weight=10.0)
    assert errors(matched) < errors(plain)


def test_a_student_with_the_weights_of_the_teacher_costs_nothing(
    state: CompressionState, programs: Any
) -> None:
    x = inputs(state, 8)
    for name in LOSSES:
        options = Distill(loss=name, top_k=2)
        loss = distillation_loss(programs[0], programs[0], options, classification=True)
        assert loss((x,), None).item() == pytest.approx(0, abs=1e-5), name


def test_known_outputs_take_the_place_of_the_teacher(
    state: CompressionState, programs: Any
) -> None:
    original, student = programs
    x = inputs(state, 8)
    loss = distillation_loss(student, original, Distill(), classification=True)
    with torch.no_grad():
        live, known = loss((x,), None), loss((x, original(x)), None)
        assert torch.equal(live, known)
        assert not torch.equal(loss((x, 2 * original(x)), None), live)


def test_a_teacher_that_is_not_the_float_program_gives_the_outputs(
    state: CompressionState, programs: Any
) -> None:
    """After a stage before this one: outputs from the teacher, features from what was changed."""
    original, student = programs
    x = inputs(state, 8)
    other = with_other_weights(original)
    options = Distill(feature_weight=1.0)
    taps = find_taps(student, original)
    losses = {
        name: distillation_loss(
            student, teacher, choice, classification=True, taps=taps, original=original
        )
        for name, teacher, choice in (
            ("both", other, options),
            ("outputs", other, Distill()),
            ("same", original, options),
            ("same outputs", original, Distill()),
        )
    }
    with torch.no_grad():
        found = {name: float(loss((x,), None)) for name, loss in losses.items()}
    features = found["same"] - found["same outputs"]
    assert features > 0 and abs(found["outputs"] - found["same outputs"]) > 1e-4
    assert found["both"] == pytest.approx(found["outputs"] + features, rel=1e-4)


def with_other_weights(module: fx.GraphModule) -> fx.GraphModule:
    other = clone(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    return other


def test_the_average_is_kept_in_place_of_the_last_weights(
    state: CompressionState, programs: Any
) -> None:
    start = dict(programs[1].named_parameters())
    _, last = run(state, programs)
    details, averaged = run(state, programs, ema=0.9)
    _, immediate = run(state, programs, ema=1e-9)
    last_weights, same = dict(last.named_parameters()), dict(immediate.named_parameters())
    moved = closer = 0.0
    for name, weight in averaged.named_parameters():
        assert torch.allclose(same[name], last_weights[name], atol=1e-7)
        moved += (last_weights[name] - start[name]).detach().norm().item()
        closer += (weight - start[name]).detach().norm().item()
    assert details["distillation_kept"] and 0 < closer < moved


def test_in_sixteen_bits_training_does_the_same_with_less_precision(
    state: CompressionState, programs: Any
) -> None:
    """bfloat16 on the CPU takes the path that float16 takes on CUDA."""
    full, _ = run(state, programs, feature_weight=1.0)
    half, student = run(state, programs, feature_weight=1.0, mixed_precision=True)
    assert half["distillation_kept"] and half["held_out_loss"][0] == full["held_out_loss"][0]
    assert half["held_out_loss"] != full["held_out_loss"]
    assert half["held_out_loss"][1] == pytest.approx(full["held_out_loss"][1], rel=0.3)
    assert {p.dtype for p in student.parameters()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.parametrize("mixed_precision", [False, True])
def test_training_on_a_gpu(state: CompressionState, programs: Any, mixed_precision: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that torch can use")
    options = {"ema": 0.9, "feature_weight": 1.0, "mixed_precision": mixed_precision}
    on_cpu, _ = run(state, programs, **{**options, "mixed_precision": False})
    details, student = run(state, programs, **options, device=torch.device("cuda", 0))
    assert details["trained_on"] == "cuda" and details["distillation_kept"]
    assert details["held_out_loss"] == pytest.approx(on_cpu["held_out_loss"], rel=0.3)
    assert {p.device for p in student.parameters()} == {CPU}


def test_a_training_that_made_it_worse_is_undone(state: CompressionState, programs: Any) -> None:
    details, student = run(state, programs, learning_rate=3.0, ema=0.5)
    assert not details["distillation_kept"]
    start = programs[1].state_dict()
    assert all(torch.equal(value, start[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("distill_options", "message"),
    [
        ({"loss": "standardized-kl"}, "needs 3 classes or more, since 2 .*use 'kl'"),
        (
            {"loss": "top-k-kl"},
            "top_k: 5' leaves out none of the model's 2 classes; give at most 1",
        ),
    ],
)
def test_losses_that_compare_nothing_are_refused(
    state: CompressionState, distill_options: dict[str, Any], message: str
) -> None:
    (output,) = state.spec.outputs
    two = replace(state.spec, outputs=(replace(output, shape=(None, 2)),))
    with pytest.raises(StageError, match=message):
        check(replace(state, spec=two), **distill_options)
    check(state, **distill_options | {"top_k": 4})


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "kl"},
        {"loss": "standardized-kl"},
        {"loss": "top-k-kl"},
        {"hard_label_weight": 0.5},
    ],
)
def test_classes_are_needed_where_classes_are_compared(
    state: CompressionState, options: dict[str, Any]
) -> None:
    (key,) = options
    with pytest.raises(StageError, match=f"distill.{key}.* needs class logits"):
        check(replace(state, classification=False), **options)
    check(replace(state, classification=False))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so nothing to refuse")
def test_sixteen_bits_need_a_gpu(state: CompressionState) -> None:
    with pytest.raises(StageError, match=r"mixed_precision' needs a CUDA GPU.*set it to false"):
        check(state, mixed_precision=True)


def test_features_of_a_network_without_blocks_are_refused(tmp_path: Path) -> None:
    net = build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(IMAGE)), 5)))
    state = make_state(net, IMAGE, tmp_path)
    options = QuantizeStage(stage="quantize", distill=Distill(feature_weight=1.0))
    with pytest.raises(StageError, match=r"feature_weight' .* cannot be cut.* set it to 0"):
        quantize.run(state, options, Silent())


def check(state: CompressionState, **options: Any) -> None:
    quantize.requires(state, QuantizeStage(stage="quantize", distill=Distill(**options)))


def with_exits(program: fx.GraphModule, *weights: float) -> fx.GraphModule:
    """Return a program whose exits give its logits times these numbers."""
    graph = clone(program)
    (output,) = output_nodes(graph)
    with graph.graph.inserting_before(graph.graph.output_node()):
        exits = [graph.graph.call_function(torch.ops.aten.mul.Tensor, (output, w)) for w in weights]
    for node in exits:
        node.meta = dict(output.meta)
    graph.graph.output_node().args = ((output, *exits),)
    graph.recompile()
    return graph


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("labels", [0.0, 0.3])
def test_losses_of_exits_are_averaged_by_their_weights(
    state: CompressionState, programs: Any, loss: str, labels: float
) -> None:
    original, student = programs
    options = Distill(**{**SETTINGS, "loss": loss, "hard_label_weight": labels})
    batch = (inputs(state, 16),)
    targets = torch.arange(16) % 3

    def of(graph: fx.GraphModule, **more: Any) -> float:
        found = distillation_loss(graph, original, options, classification=True, **more)
        return float(found(batch, targets).detach())

    scales = (1.0, 0.5, 2.0)
    alone = []
    for scale in scales:
        scaled = with_exits(student, scale)
        scaled.graph.output_node().args = ((output_nodes(scaled)[1],),)
        scaled.recompile()
        alone.append(of(scaled))
    both = with_exits(student, 0.5, 2.0)
    found = of(both, exit_weights=(0.25, 0.75))
    assert found == pytest.approx((alone[0] + 0.25 * alone[1] + 0.75 * alone[2]) / 2, rel=1e-4)
    assert of(both, exit_weights=(0.0, 0.0)) == pytest.approx(alone[0], rel=1e-4)


def test_exits_that_teach_themselves_learn_from_the_own_output_alone(
    state: CompressionState, programs: Any
) -> None:
    _, student = programs
    options = Distill(**SETTINGS)
    batch = (inputs(state, 16),)

    def loss(*scales: float) -> torch.Tensor:
        graph = with_exits(student, *scales)
        weights = [1.0] * len(scales)
        found = distillation_loss(
            graph,
            graph,
            options,
            classification=True,
            exit_weights=weights,
            self_taught=True,
        )
        return found(batch, None).detach()

    assert float(loss(1.0)) == pytest.approx(0, abs=1e-5)
    assert float(loss(0.5)) > 1e-4
    assert float(loss(0.5, 1.0)) == pytest.approx(float(loss(0.5)) / 2, rel=1e-3)
