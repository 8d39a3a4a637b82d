"""The prune stage alone: budgets that hold, what goes for them, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from marks import with_slow
from networks import IMAGE, build, conv_bn
from prunable_networks import PRUNABLE
from states import make_state, original_ms
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from edgekd.cache import StepCache
from edgekd.device import load_profile
from edgekd.errors import ProfileError, StageError
from edgekd.graph.float_form import float_form
from edgekd.graph.program import digest, output_tensors
from edgekd.progress import Silent
from edgekd.prune.importance import Kind
from edgekd.recipe import PruneStage
from edgekd.stages import prune, prune_ruler
from edgekd.state import CompressionState
from edgekd.training_settings import Recovery

TRAINING = Recovery(epochs=1, batch_size=32, learning_rate=1e-3, augment="none")


class Net(nn.Module):
    """A stem, two residual blocks of which the second hardly matters, and a hidden layer."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv_bn(3, width), conv_bn(width, 16), conv_bn(16, width)
        self.c, self.d = conv_bn(width, 16), conv_bn(16, width)
        self.hidden, self.head = nn.Linear(width, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        x = torch.relu(x + 1e-6 * self.d(torch.relu(self.c(x))))
        return self.head(torch.relu(self.hidden(x.mean((2, 3)))))


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def made(net: nn.Module, shape: tuple[int, ...], folder: Path) -> CompressionState:
    state = make_state(net, shape, folder)
    return replace(state, cache=StepCache(folder / "cache"))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    return made(build(Net), IMAGE, tmp_path_factory.mktemp("state"))


def stage(**changed: Any) -> PruneStage:
    defaults = {"steps": 1, "multiple": 2, "samples": 64, "distill": None}
    return PruneStage(stage="prune", **{**defaults, **changed})


def run(state: CompressionState, progress: Notes | None = None, **changed: Any) -> CompressionState:
    options = stage(**changed)
    prune.requires(state, options)
    return prune.run(state, options, progress or Notes())


def facts(state: CompressionState) -> dict[str, Any]:
    found: dict[str, Any] = state.details["prune"]
    return found


def flops(module: fx.GraphModule, example: tuple[Tensor, ...]) -> int:
    """Return what torch itself counts, attention written out."""
    module = float_form(module, example)
    with FlopCounterMode(display=False) as counter:
        module(*example)
    return int(counter.get_total_flops())


def parameters(module: fx.GraphModule) -> int:
    return sum(p.numel() for p in module.parameters())


def answers(module: fx.GraphModule, state: CompressionState) -> Tensor:
    with torch.no_grad():
        return output_tensors(module(*state.example))[0]


# -- counted budgets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "share", "steps", "across"),
    [
        pytest.param("macs", 0.5, 3, "damage", marks=pytest.mark.slow),
        pytest.param("macs", 0.5, 1, "importance", marks=pytest.mark.slow),
        pytest.param("macs", 0.4, 2, "uniform", marks=pytest.mark.slow),
        pytest.param("parameters", 0.6, 1, "damage", marks=pytest.mark.slow),
        ("parameters", 0.5, 2, "importance"),
        pytest.param("parameters", 0.7, 1, "uniform", marks=pytest.mark.slow),
    ],
)
def test_counted_budgets_hold_as_torch_counts_them(
    state: CompressionState, budget: str, share: float, steps: int, across: str
) -> None:
    before = digest(state.model)
    after = run(state, steps=steps, across=across, **{budget: share})

    found = {
        "macs": [flops(m, state.example) for m in (state.model, after.model)],
        "parameters": [parameters(m) for m in (state.model, after.model)],
    }
    old, new = found[budget]
    assert 0.5 * share * old < new <= share * old
    told = facts(after)
    for name, (first, last) in found.items():
        unit = first / told[name][0]
        assert last == pytest.approx(unit * told[name][1], rel=1e-9), name
    assert told["source"] == "counted" and told["wanted_gain"] == 1 / share
    gains = [step["wanted_gain"] for step in told["steps"]]
    assert gains == pytest.approx([(1 / share) ** (k / steps) for k in range(1, steps + 1)])
    assert answers(after.model, state).isfinite().all()
    assert digest(state.model) == before, "the state that was given does not change"


def test_widths_are_the_program_s_and_multiples(state: CompressionState) -> None:
    after = run(state, macs=0.4, multiple=4, blocks=False)
    tensors = dict(after.model.named_parameters())
    groups = {group["name"]: group for group in facts(after)["groups"]}
    assert groups.keys() == {"stem.0", "a.0", "c.0", "hidden"}
    for name, group in groups.items():
        assert tensors[f"{name}.weight"].shape[0] == group["after"] <= group["before"]
        assert group["after"] % 4 == 0 and group["kind"] == "channels"
    assert any(group["after"] < group["before"] for group in groups.values())


def test_a_single_unit_that_is_left_is_counted(state: CompressionState) -> None:
    after = run(state, macs=0.03, multiple=1, blocks=False)
    groups = {group["name"]: group["after"] for group in facts(after)["groups"]}
    tensors = dict(after.model.named_parameters())
    assert 1 in groups.values()
    assert {name: len(tensors[f"{name}.weight"]) for name in groups} == groups


# Most tests here prune by taylor, and test_importance.py ranks by every kind.
@pytest.mark.parametrize(
    "importance", with_slow(get_args(Kind), set(get_args(Kind)) - {"activation"})
)
def test_every_importance_ranks_units(state: CompressionState, importance: str) -> None:
    after = run(state, macs=0.5, importance=importance, across="importance", steps=2)
    assert facts(after)["importance"] == importance
    assert flops(after.model, state.example) <= 0.5 * flops(state.model, state.example)


# -- blocks ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_block_that_hardly_matters_goes_as_a_whole(state: CompressionState) -> None:
    progress = Notes()
    after = run(state, progress, macs=0.4)
    (name,) = facts(after)["blocks_removed"]
    stored = {str(n.target) for n in after.model.graph.nodes if n.op == "get_attr"}
    assert not {"c.0.weight", "d.0.weight"} & stored and "a.0.weight" in stored
    (gone,) = (g for g in facts(after)["groups"] if g["name"] == "c.0")
    assert gone["after"] == 0
    assert any(f"without {name}" in note for note in progress.notes)
    torch.testing.assert_close(
        answers(after.model, state), answers(state.model, state), atol=0.5, rtol=0.5
    )
    assert facts(run(state, macs=0.4, blocks=False))["blocks_removed"] == []
    assert facts(run(state, macs=0.4, across="uniform"))["blocks_removed"] == []


class Single(nn.Module):
    """A residual branch of one layer has no units of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = conv_bn(3, 16), conv_bn(16, 16)
        self.hidden, self.head = nn.Linear(16, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.hidden((x + self.a(x)).mean((2, 3)))))


def test_a_block_without_units_of_its_own_is_not_free_by_importance(tmp_path: Path) -> None:
    state = made(build(Single), IMAGE, tmp_path)
    after = run(state, parameters=0.9, across="importance", importance="l1")
    assert facts(after)["blocks_removed"] == []


# -- transformers ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_vision_transformer_loses_heads_neurons_or_layers(tmp_path: Path) -> None:
    make, (shape,) = PRUNABLE["vit"]
    state = made(build(make), shape, tmp_path)
    after = run(state, macs=0.5, multiple=4, steps=2, distill=TRAINING)
    groups = facts(after)["groups"]
    assert {group["kind"] for group in groups} == {"heads", "channels"}
    smaller = [group for group in groups if group["after"] < group["before"]]
    assert smaller or facts(after)["blocks_removed"]
    assert flops(after.model, state.example) <= 0.5 * flops(state.model, state.example)
    assert [step["trained_on"] for step in facts(after)["steps"]]
    heads = run(state, parameters=0.8, across="uniform", multiple=4)
    (first, *_) = [g for g in facts(heads)["groups"] if g["kind"] == "heads"]
    assert first["after"] <= first["before"] and first["rows"] == 4


# -- latency --------------------------------------------------------------------------------------


class Wide(nn.Module):
    """Convolutions that take long enough to be timed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv_bn(3, 48), conv_bn(48, 48), conv_bn(48, 48)
        self.head = nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.b, self.c):
            x = torch.relu(layer(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    return made(build(Wide), (3, 16, 16), tmp_path_factory.mktemp("wide"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time as always, but less often."""
    monkeypatch.setattr(prune_ruler, "PROCESSES", 1)
    monkeypatch.setattr(prune_ruler, "ROUNDS", 40)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_candidate_was_measured_to_be_as_fast_as_asked(wide: CompressionState) -> None:
    after = run(wide, speedup=1.5, multiple=16, across="importance", importance="l1", steps=2)
    told = facts(after)
    assert (told["source"], told["wanted_gain"]) == ("measured", 1.5)
    first, last = told["steps"]
    assert [set(attempt) for attempt in first["attempts"]] == [{"predicted"}]
    assert all(attempt.keys() == {"predicted", "measured"} for attempt in last["attempts"])
    assert max(attempt["measured"] for attempt in last["attempts"]) >= 1.5
    assert first["layers_timed"] > 3
    assert told["macs"][1] < told["macs"][0]
    assert "1.5x as fast in float (measured)" in prune.describe(stage(speedup=1.5), wide.profile)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_milliseconds_are_a_share_of_what_the_original_takes(wide: CompressionState) -> None:
    options = {"multiple": 16, "across": "uniform"}
    with pytest.raises(
        StageError, match=r"original takes .* ms \(measured\), .* budget of 1000 ms"
    ):
        run(wide, latency_ms=1000, **options)
    with pytest.raises(StageError) as caught:
        run(wide, latency_ms=1e-4, **options)
    assert "as fast when measured, the fastest is" in str(caught.value)
    assert "\n" not in str(caught.value)
    (step,) = facts(run(wide, latency_ms=original_ms(wide) / 2, **options))["steps"]
    assert step["wanted_gain"] > 1  # near 2, as far as two measurements agree
    assert max(a["measured"] for a in step["attempts"]) >= step["wanted_gain"]


def test_for_another_machine_latency_is_predicted_and_called_so(wide: CompressionState) -> None:
    state, progress = replace(wide, profile=load_profile("jetson")), Notes()
    after = run(state, progress, speedup=1.05, multiple=16, steps=2)
    told = facts(after)
    assert told["source"] == "predicted"
    for step in told["steps"]:
        assert step["layers_timed"] == 0
        assert [set(attempt) for attempt in step["attempts"]] == [{"predicted"}]
    assert told["steps"][-1]["attempts"][0]["predicted"] >= 1.05
    (note,) = (note for note in progress.notes if "predicted by its latency model" in note)
    assert "not measured" in note
    assert "(predicted)" in prune.describe(stage(latency_ms=1.0), state.profile)
    with pytest.raises(StageError, match=r"ms \(predicted\), which is within the budget of 9 ms"):
        run(state, latency_ms=9)


def test_a_device_without_figures_is_refused_before_any_work(wide: CompressionState) -> None:
    profile = load_profile("jetson").model_copy(update={"peak_gmacs": None})
    state = replace(wide, profile=profile)
    with pytest.raises(ProfileError, match="neither be measured here nor predicted"):
        prune.requires(state, stage(speedup=2.0))
    prune.requires(state, stage(macs=0.5))


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("across", ["damage", "uniform"])
def test_a_budget_out_of_reach_is_one_clear_line(state: CompressionState, across: str) -> None:
    with pytest.raises(StageError) as caught:
        run(state, macs=0.0001, across=across)
    message = str(caught.value)
    assert message.startswith("prune: a gain of 10000.00x is out of reach: the smallest candidate")
    assert "x (counted); ask for less" in message and "\n" not in message


def test_what_cannot_be_followed_is_named_or_left(tmp_path: Path) -> None:
    make, (shape,) = PRUNABLE["unknown"]
    state, progress = made(build(make), shape, tmp_path), Notes()
    with pytest.raises(StageError) as caught:
        prune.requires(state, stage(macs=0.8))
    message = str(caught.value)
    assert message.startswith("prune: b cannot be pruned: aten.cummax") and "\n" not in message
    assert "prunable_networks.py" in message and "on_unprunable: skip" in message
    (line,) = re.findall(r"prunable_networks\.py:(\d+)", message)
    source = (Path(__file__).parents[2] / "prunable_networks.py").read_text().splitlines()
    assert "cummax" in source[int(line) - 1]

    after = run(state, progress, macs=0.8, multiple=1, on_unprunable="skip")
    assert any(note.startswith("prune: b stays as it is: ") for note in progress.notes)
    groups = {group["name"]: group for group in facts(after)["groups"]}
    assert "b" not in groups and facts(after)["macs"][1] <= 0.8 * facts(after)["macs"][0]


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def test_a_model_with_nothing_to_take_out_is_refused(tmp_path: Path) -> None:
    state = made(build(Fixed), (4,), tmp_path)
    with pytest.raises(StageError, match="nothing in this model can be taken out"):
        prune.requires(state, stage(macs=0.5))


def test_training_that_the_model_does_not_allow_is_refused(state: CompressionState) -> None:
    with pytest.raises(StageError, match=r"prune: 'distill.top_k: 3'"):
        prune.requires(state, stage(macs=0.5, distill=Recovery(loss="top-k-kl", top_k=3)))


# -- training and words ---------------------------------------------------------------------------


@pytest.mark.slow
def test_every_step_is_trained_and_the_last_one_longest(state: CompressionState) -> None:
    training = TRAINING.model_copy(update={"epochs": 3})
    after = run(state, macs=0.5, steps=2, step_epochs=2, distill=training)
    assert [len(step["train_loss"]) for step in facts(after)["steps"]] == [2, 3]
    assert "train_loss" not in facts(run(state, macs=0.5))["steps"][0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"macs": 0.5}, "channels, heads and whole blocks go until 50% of the multiplications"),
        ({"parameters": 0.25, "blocks": False}, "channels and heads go until 25% of the param"),
        ({"macs": 0.5, "across": "uniform"}, "channels and heads go"),
        ({"macs": 0.5, "steps": 3}, "in 3 steps, ranked by taylor, no training"),
        ({"macs": 0.5, "distill": Recovery()}, "at once, ranked by taylor, then 10 epochs of dis"),
    ],
)
def test_describe(state: CompressionState, changed: dict[str, Any], words: str) -> None:
    assert words in prune.describe(stage(**changed), state.profile)
