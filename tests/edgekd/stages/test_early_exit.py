"""The early-exit stage: what it may change and what it must not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from marks import with_slow
from networks import IMAGE, Mlp, ResNet, build, run_onnx, samples, trace
from states import inputs, make_state
from torch import Tensor, fx, nn

from benchmarks.networks.vit import VisionTransformer
from edgekd.cache import StepCache
from edgekd.device import load_profile
from edgekd.errors import StageError
from edgekd.exits.attach import attach, backbone_tensors, is_head_tensor, traced
from edgekd.exits.choose_head import make_head
from edgekd.exits.places import find_places
from edgekd.export.deployed import export_for
from edgekd.export.segments import without_exits
from edgekd.graph.batchnorm import batch_norms
from edgekd.graph.batchnorm_mode import reestimate_batch_norm
from edgekd.graph.canonical import make_functional
from edgekd.graph.cuts import block_ends
from edgekd.graph.float_form import float_form
from edgekd.graph.program import clone, output_nodes, output_tensors
from edgekd.graph.tensors import constant
from edgekd.progress import Silent
from edgekd.recipe import EarlyExitStage, ExitHeads
from edgekd.sparse.masking import held_zeros
from edgekd.stages import checkpoint, early_exit, exit_training
from edgekd.state import CompressionState
from edgekd.training_settings import Recovery

SHORT = {"epochs": 2, "batch_size": 16, "augment": "none", "learning_rate": 0.02}
HEADS = ExitHeads(**SHORT)
JOINT = Recovery(feature_weight=0.0, **SHORT)


def stage(**settings: Any) -> EarlyExitStage:
    given = {"at": ("blocks.0", "blocks.1"), "joint": None, "heads": HEADS, **settings}
    return EarlyExitStage(stage="early_exit", **given)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    """A residual network whose target has figures, so that nothing has to be timed here."""
    made = make_state(build(ResNet), IMAGE, tmp_path_factory.mktemp("state"), classes=5)
    reestimate_batch_norm(made.model, [(inputs(made, 64),)])
    return replace(made, profile=load_profile("jetson"))


@pytest.fixture(scope="module")
def frozen(state: CompressionState) -> CompressionState:
    return early_exit.run(state, stage(), Silent())


@torch.no_grad()
def answers(module: fx.GraphModule, x: Tensor) -> list[Tensor]:
    return list(output_tensors(module(x)))


def tensors(module: fx.GraphModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in backbone_tensors(module).items()}


def test_without_training_the_backbone_answers_to_the_last_bit_as_before(
    state: CompressionState, frozen: CompressionState
) -> None:
    x = samples(33, *IMAGE, seed=3)
    before, after = answers(state.model, x), answers(frozen.model, x)
    assert len(before) == 1 and len(after) == 3
    assert torch.equal(before[0], after[0])
    was, now = tensors(state.model), tensors(frozen.model)
    assert was.keys() == now.keys() and all(torch.equal(was[name], now[name]) for name in was)


def test_and_so_does_its_onnx_without_the_exits(
    state: CompressionState, frozen: CompressionState
) -> None:
    x = samples(9, *IMAGE, seed=4)
    before = export_for(state.profile, state.model, state.example, state.spec).here
    both = export_for(frozen.profile, frozen.model, frozen.example, frozen.full_spec).here
    after = without_exits(both, [tensor.name for tensor in state.spec.outputs])
    assert np.array_equal(run_onnx(before, state.spec, x)[0], run_onnx(after, state.spec, x)[0])
    graph = onnx.load_from_string(both).graph
    assert [value.name for value in graph.output[1:]] == ["exit_1", "exit_2"]
    found = run_onnx(both, frozen.full_spec, x)
    for in_onnx, in_torch in zip(found, answers(frozen.model, x), strict=True):
        np.testing.assert_allclose(in_onnx, in_torch.numpy(), rtol=1e-3, atol=1e-3)


def test_exits_are_told_by_depth_and_learn(state: CompressionState, frozen: Any) -> None:
    assert [(e.name, e.after, e.head) for e in frozen.exits] == [
        ("exit_1", "blocks.0", "conv"),
        ("exit_2", "blocks.1", "conv"),
    ]
    assert 0 < frozen.exits[0].share < frozen.exits[1].share < 1
    facts = frozen.details["early_exit"]
    assert facts["backbone"] == "frozen" and [e["name"] for e in facts["exits"]] == [
        "exit_1",
        "exit_2",
    ]
    trained = frozen.details["heads"]
    assert "joint" not in frozen.details and trained["distillation_kept"]
    assert trained["train_loss"][-1] < trained["train_loss"][0]
    assert trained["held_out_loss"][1] < trained["held_out_loss"][0]
    names = [tensor.name for tensor in frozen.full_spec.outputs]
    assert names == [state.spec.outputs[0].name, "exit_1", "exit_2"]
    stored = [name for name, _ in frozen.model.named_parameters() if is_head_tensor(name)]
    assert {name.split(".")[1] for name in stored} == {"exit_1", "exit_2"}


def test_the_same_seed_gives_the_same_heads(state: CompressionState, frozen: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)  # of the caller; not what the stage goes by
        again = early_exit.run(state, stage(), Silent())
    x = samples(5, *IMAGE)
    assert all(map(torch.equal, answers(frozen.model, x), answers(again.model, x)))


def test_heads_learn_from_the_final_output_and_only_they_have_new_statistics(
    state: CompressionState,
) -> None:
    given = clone(state.model)
    result = early_exit.run(state, stage(at=("blocks.1",)), Silent())
    norms = {
        str(node.args[3].target): constant(result.model, node.args[3])  # type: ignore[union-attr]
        for node in batch_norms(result.model)
    }
    own = tensors(given)
    heads = {name for name in norms if is_head_tensor(name)}
    assert heads and len(norms) == len(heads) + 7
    for name, mean in norms.items():
        assert mean is not None
        if name in heads:
            assert mean.abs().sum() > 0
        else:
            assert torch.equal(mean, own[name])
    x = inputs(state, 48)
    final, exit_ = answers(result.model, x)
    untrained = early_exit.run(
        state,
        stage(at=("blocks.1",), heads=ExitHeads(**{**SHORT, "learning_rate": 1e-9})),
        Silent(),
    )
    gap = [float((a - final).square().mean()) for a in (exit_, answers(untrained.model, x)[1])]
    assert gap[0] < gap[1]


@pytest.fixture(scope="module")
def joint(state: CompressionState) -> CompressionState:
    """Backbone and heads trained together, with zeros that an earlier stage made."""
    sparse = clone(state.model)
    weight = sparse.get_parameter("blocks.1.b.0.weight")
    with torch.no_grad():
        weight[:, ::2] = 0
    given = replace(state, model=sparse, keep_zeros=True)
    return early_exit.run(given, stage(joint=JOINT), Silent())


def test_zeros_of_an_earlier_stage_stay_zero_while_all_trains(
    state: CompressionState, joint: CompressionState
) -> None:
    weight = joint.model.get_parameter("blocks.1.b.0.weight")
    assert not weight[:, ::2].any() and weight[:, 1::2].all()
    assert list(held_zeros(joint.model)) == ["blocks.1.b.0.weight"]
    was, now = tensors(float_form(state.model, state.example)), tensors(joint.model)
    assert not torch.equal(was["stem.0.weight"], now["stem.0.weight"])
    assert joint.details["joint"]["distillation_kept"]
    assert joint.details["early_exit"]["backbone"] == "trained"


def test_behind_a_joint_training_the_heads_train_alone(joint: CompressionState) -> None:
    assert joint.details["heads"]["teacher_cache"] == "unused"  # they learn from the model itself
    for phase in ("joint", "heads"):
        before, after = joint.details[phase]["held_out_loss"]
        assert after < before
    assert len(answers(joint.model, samples(2, *IMAGE))) == 3


def test_auxiliary_heads_leave_the_model_trained_and_no_trace(state: CompressionState) -> None:
    result = early_exit.run(state, stage(joint=JOINT, auxiliary=True), Silent())
    assert result.exits == () and result.full_spec == state.spec
    assert len(output_nodes(result.model)) == 1
    stored = [*result.model.state_dict()]
    assert stored and not any(is_head_tensor(name) for name in stored)
    assert stored == [*float_form(state.model, state.example).state_dict()]
    x = samples(4, *IMAGE)
    assert not torch.equal(answers(state.model, x)[0], answers(result.model, x)[0])
    assert "heads" not in result.details and result.details["early_exit"]["auxiliary"]


class StoppedError(Exception):
    pass


class Counted(Silent):
    """Counts what the tasks advance, and may end the work behind one of these steps."""

    def __init__(self, title: str, stop: int | None = None) -> None:
        self.notes: list[str] = []
        self.steps, self._title, self._stop = 0, title, stop

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Any]:
        def advance(count: int) -> None:
            if description == self._title:
                self.steps += count
                if self._stop is not None and self.steps >= self._stop:
                    raise StoppedError

        yield advance

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize(
    "phase",
    with_slow(["early_exit: backbone and heads", "early_exit: heads"], ["early_exit: heads"]),
)
def test_a_stage_that_was_stopped_goes_on_to_the_same_weights(
    state: CompressionState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    options = stage(at=("blocks.1",), joint=JOINT)

    def run(folder: str, stop: int | None = None) -> tuple[fx.GraphModule, Counted]:
        given = replace(state, cache=StepCache(tmp_path / folder), key="a-step")
        progress = Counted(phase, stop)
        return early_exit.run(given, options, progress).model, progress

    whole, counted = run("whole")
    with pytest.raises(StoppedError):
        run("stopped", stop=7)
    resumed, left = run("stopped")
    assert f"{phase}: goes on where an earlier run stopped" in left.notes
    assert left.steps == counted.steps == 10
    a, b = whole.state_dict(), resumed.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"at": ("blocks.7",)}, "no exit behind 'blocks.7'.*places: .*blocks.0, .*blocks.1"),
        ({"at": ("blocks.1.a",)}, "no exit behind 'blocks.1.a'.*more than one tensor"),
        ({"head": "attention"}, "behind blocks.0: .*'attention' needs tokens in a square.*choose"),
        ({"heads": ExitHeads(feature_layers=("blocks.0",))}, "'heads.feature_layers' has no use"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    state: CompressionState, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=message) as caught:
        early_exit.requires(state, stage(**settings))
    assert "\n" not in str(caught.value)


def test_only_classifiers_can_have_exits(tmp_path: Path, state: CompressionState) -> None:
    with pytest.raises(StageError, match="only classifiers can have early exits"):
        early_exit.requires(replace(state, classification=False), stage())


def test_a_model_of_several_outputs_has_no_cascade(state: CompressionState) -> None:
    (own,) = state.spec.outputs
    two = replace(state.spec, outputs=(own, replace(own, name="boxes")))
    with pytest.raises(StageError, match=r"several outputs \(output, boxes\)"):
        early_exit.requires(replace(state, spec=two), stage())


class Flat(nn.Module):
    """One layer: there is no place between blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def test_a_model_of_one_layer_has_no_place(tmp_path: Path) -> None:
    given = make_state(build(Flat), (16,), tmp_path, classes=4)
    with pytest.raises(StageError, match="no place between its blocks"):
        early_exit.requires(given, stage(at=()))


@pytest.mark.slow
def test_places_without_names_in_the_recipe_are_spread_by_the_targets_figures(
    tmp_path: Path,
) -> None:
    net = build(lambda: VisionTransformer(16, 4, 2, 32, 8, 32, 5))
    given = replace(
        make_state(net, (3, 32, 32), tmp_path, classes=5), profile=load_profile("jetson")
    )
    options = stage(at=(), candidates=2, heads=ExitHeads(**{**SHORT, "feature_weight": 1.0}))
    early_exit.requires(given, options)
    result = early_exit.run(given, options, Silent())
    assert [exit_.head for exit_ in result.exits] == ["local", "attention"]
    assert all(exit_.after.startswith("layers") for exit_ in result.exits)
    x = samples(3, 3, 32, 32)
    assert torch.equal(answers(given.model, x)[0], answers(result.model, x)[0])


def test_other_kinds_of_networks(tmp_path: Path) -> None:
    given = make_state(build(Mlp), (16,), tmp_path, classes=4)
    result = early_exit.run(
        replace(given, profile=load_profile("jetson")), stage(at=(), candidates=1), Silent()
    )
    assert [exit_.head for exit_ in result.exits] == ["linear"]
    assert [a.shape for a in answers(result.model, samples(3, 16))] == [(3, 4), (3, 4)]


@pytest.mark.parametrize("network", ["resnet", "vit"])
def test_heads_are_compared_with_the_last_block_and_not_with_what_they_read(network: str) -> None:
    if network == "resnet":
        net, x, at = build(ResNet), samples(2, *IMAGE), ("blocks.0", "blocks.1")
    else:
        net = build(lambda: VisionTransformer(16, 4, 2, 32, 8, 32, 5))
        x, at = samples(2, 3, 32, 32), ("layers.0", "layers.1")
    graph, _ = trace(net, x)
    make_functional(graph)
    last = block_ends(graph)[-1].name
    nodes = {node.name: node for node in graph.graph.nodes}
    heads = []
    for index, place in enumerate(find_places(graph, {}, at, 2)):
        node = nodes[place.node]
        head = traced(make_head(graph, node, 0.3, "auto", 5), node)
        heads.append((f"exit_{index + 1}", place.node, head))
    student = attach(graph, heads)
    assert len(student.features) == 2
    taps = exit_training.head_taps(student, 1)
    assert [(tap.student, tap.teacher) for tap in taps] == [(f, last) for f in student.features]


def test_the_recipes_feature_weight_has_an_effect(
    state: CompressionState, frozen: CompressionState
) -> None:
    progress = Counted("")
    weighted = ExitHeads(**{**SHORT, "feature_weight": 1.0})
    found = early_exit.run(state, stage(heads=weighted), progress)
    assert not any("no head has features" in note for note in progress.notes)
    x = samples(5, *IMAGE)
    for a, b in zip(answers(frozen.model, x)[1:], answers(found.model, x)[1:], strict=True):
        assert not torch.equal(a, b)
