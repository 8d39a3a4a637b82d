"""Every shipped recipe that distils: its own stages and losses, on tiny networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from networks import IMAGE, build, conv_bn, trace
from states import make_state
from torch import Tensor, nn

from edgekd.distillation.teachers import BlackBox
from edgekd.errors import StageError
from edgekd.graph.parts import head_tensors
from edgekd.graph.program import output_tensors
from edgekd.progress import Silent
from edgekd.recipe import check_recipe, list_recipes, load_recipe, with_student, with_teachers
from edgekd.stages import distill
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage

SHORT = {"epochs": 2, "max_steps": 4, "batch_size": 32}  # the only keys that a test changes
RECIPES = {  # and the teacher that it is for
    "student-soft-labels": "cnn",
    "student-ensemble": "cnn",
    "student-progressive": "cnn",
    "student-generic-specific": "cnn",
    "head-self-distilled": "cnn",
    "self-distilled": "cnn",
    "student-across-architectures": "transformer",
    "student-from-transformer": "transformer",
}
Run = Callable[[str], list[CompressionState]]
OTHERS = {"student-distilled", "student-int8-distilled"}  # tests/edgekd/test_pipeline_distill.py


class Cnn(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.body = conv_bn(3, width), conv_bn(width, 2 * width, stride=2)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(torch.relu(self.stem(x))))
        return self.head(x.mean((2, 3)))


class Vit(nn.Module):
    """Patches of 2 x 2 pixels, one block of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 16, 2, 2), nn.LayerNorm(16)
        self.qkv, self.out, self.up = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, -1)).unbind(-3)
        y = F.scaled_dot_product_attention(*(z.transpose(1, 2) for z in (q, k, v)))
        x = x + self.out(y.transpose(1, 2).flatten(2))
        x = x + self.up(F.gelu(x))
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CompressionState]:
    found = {}
    for name, teacher in (("cnn", Cnn), ("transformer", Vit)):
        made = make_state(build(teacher), IMAGE, tmp_path_factory.mktemp(name), classes=5)
        student, _ = trace(build(lambda: Cnn(4)), made.example[0])
        other, _ = trace(build(Cnn, 1), made.example[0])

        @torch.no_grad()
        def predict(inputs: tuple[Tensor, ...], other: Any = other) -> Tensor:
            return output_tensors(other(*inputs))[0]

        box = BlackBox("other.onnx", "0", predict)
        found[name] = replace(made, original=made.model, student=student, others=(box,))
    return found


def stages_of(name: str) -> list[DistillStage]:
    """Return the recipe's stages as the command line gives them, but short."""
    recipe = load_recipe(name)
    if name.startswith("student-"):
        recipe = with_student(recipe, "net.py:small", None)
    if name == "student-ensemble":
        recipe = with_teachers(recipe, ["other.onnx"])  # type: ignore[list-item]
    found = [stage for stage in recipe.stages if isinstance(stage, DistillStage)]
    assert len(found) == len(recipe.stages)
    return [stage.model_copy(update=SHORT) for stage in found]


@pytest.fixture(scope="module")
def run(states: dict[str, CompressionState]) -> Run:
    """Return what gives the states behind every stage of a recipe."""

    @cache
    def run(name: str) -> list[CompressionState]:
        found = [states[RECIPES[name]]]
        for stage in stages_of(name):
            found.append(distill.run(found[-1], stage, Silent()))
        return found[1:]

    return run


def test_every_recipe_that_distils_first_is_here() -> None:
    first = {name: load_recipe(name).stages[0] for name in list_recipes()}
    assert {n for n, s in first.items() if isinstance(s, DistillStage)} == set(RECIPES) | OTHERS


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_what_it_says(
    states: dict[str, CompressionState], run: Run, name: str
) -> None:
    given = states[RECIPES[name]]
    check_recipe(load_recipe(name), given.profile)
    found = run(name)
    facts = [state.details["student"] for state in found]
    for stage, state in zip(load_recipe(name).stages, found, strict=True):
        assert isinstance(stage, DistillStage) and stage.losses
        losses = [entry["loss"] for entry in state.details["student"]["losses"]]
        assert losses == [entry.loss for entry in stage.losses]
        assert all(value < float("inf") for value in state.details["train_loss"])
        assert state.details["train_loss"][0] > 0
    new = name.startswith("student-")
    sizes = {fact["parameters"][0] > fact["parameters"][1] for fact in facts}
    assert sizes == {new}, "the student stays the student in later stages"
    assert found[0].details["student"]["factory"] == ("net.py:small" if new else None)
    # Every stage gives what the model gives.
    logits = output_tensors(found[-1].model(*given.example))[0]
    assert logits.shape == (2, 5) and bool(logits.isfinite().all())


def test_the_second_stage_of_head_self_distillation_changes_the_head_alone(run: Run) -> None:
    first, second = run("head-self-distilled")
    head = head_tensors(first.model)
    old, new = first.model.state_dict(), second.model.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == (head if second.details["distillation_kept"] else set())
    assert second.details["student"]["trained_parameters"] == sum(old[n].numel() for n in head)
    assert second.details["student"]["judged_by"] == "labels"


def test_generations_are_taught_by_the_one_before(run: Run) -> None:
    found = run("self-distilled")
    for state in found:
        facts = state.details["student"]
        assert facts["teacher"] == "previous" and facts["judged_by"] == "labels"
        assert 0 <= facts["losses"][0]["label_share"] <= 1


class Keypoints(nn.Module):
    """Two keypoints, 5 bins along each axis."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.body = conv_bn(3, width), conv_bn(width, 2 * width, stride=2)
        self.x, self.y = nn.Linear(2 * width, 10), nn.Linear(2 * width, 10)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.relu(self.body(torch.relu(self.stem(image)))).mean((2, 3))
        return self.x(found).unflatten(1, (2, 5)), self.y(found).unflatten(1, (2, 5))


def test_two_heads_of_keypoints_are_distilled_from_themselves(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = make_state(build(Keypoints), IMAGE, tmp_path_factory.mktemp("pose"), classes=5)
    student, _ = trace(build(lambda: Keypoints(4)), made.example[0])
    state = replace(made, original=made.model, student=student, classification=False)
    page = (Path(__file__).parents[3] / "docs" / "distillation.md").read_text("utf-8")
    shown = yaml.safe_load(page.partition("```yaml\nname: pose-head")[2].partition("```")[0])
    found = [state]
    for given in shown["stages"]:
        stage = DistillStage.model_validate({**given, **SHORT})
        distill.requires(found[-1], stage)
        found.append(distill.run(found[-1], stage, Silent()))
    _, first, second = found
    old, new = first.model.state_dict(), second.model.state_dict()
    assert second.details["distillation_kept"], "nothing tells whether it is worse"
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"x.weight", "x.bias", "y.weight", "y.bias"} == head_tensors(first.model)


def test_an_ensemble_says_what_is_missing(states: dict[str, CompressionState]) -> None:
    recipe = with_student(load_recipe("student-ensemble"), "net.py:small", None)
    (stage,) = recipe.stages
    assert isinstance(stage, DistillStage)
    with pytest.raises(StageError, match=r"'meal': it averages several .* or give --teacher FILE$"):
        distill.requires(states["cnn"], stage)
