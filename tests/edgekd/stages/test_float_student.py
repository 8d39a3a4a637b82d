"""Distillation of students that stay in float: batch norms, masks, and features of the teacher."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import IMAGE, ResNet, build, samples
from states import inputs, make_state
from torch import Tensor, fx

from edgekd.errors import StageError
from edgekd.graph.batchnorm import batch_norms
from edgekd.graph.batchnorm_mode import reestimate_batch_norm
from edgekd.graph.canonical import make_functional, replace_padded_shortcuts
from edgekd.graph.program import clone, digest
from edgekd.graph.taps import matching_taps
from edgekd.progress import Silent
from edgekd.stages.distillation import distill
from edgekd.stages.distillation_loss import check_loss, distillation_loss, valid_tokens
from edgekd.state import CompressionState
from edgekd.training_settings import Distill, Recovery

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    """With a teacher whose batch norms know the data, as those of a trained network do."""
    found = make_state(build(ResNet), IMAGE, tmp_path_factory.mktemp("state"))
    reestimate_batch_norm(found.model, [(inputs(found, len(found.data.train)),)])
    return found


@pytest.fixture(scope="module")
def original(state: CompressionState) -> fx.GraphModule:
    graph = clone(state.model)
    make_functional(graph)
    replace_padded_shortcuts(graph)
    return graph


def masks_of(module: fx.GraphModule) -> dict[str, Tensor]:
    """Keep four of five weights of each convolution."""
    generator = torch.Generator().manual_seed(0)
    weights = {n: p for n, p in module.named_parameters() if p.ndim == 4}
    return {n: torch.rand(p.shape, generator=generator) < 0.8 for n, p in weights.items()}


@torch.no_grad()
def apply(module: fx.GraphModule, masks: dict[str, Tensor]) -> None:
    for name, mask in masks.items():
        module.get_parameter(name).mul_(mask)


def train_sparse(state: CompressionState, original: fx.GraphModule, **changed: Any) -> Any:
    student = clone(original)
    masks = masks_of(student)
    apply(student, masks)
    steps: list[int] = []

    def after_step(step: int) -> None:
        steps.append(step)
        apply(student, masks)

    settings = {"epochs": 10, "batch_size": 16, "learning_rate": 1e-2, **changed}
    details = distill(
        state,
        original,
        student,
        Recovery(**settings),
        Silent(),
        title="t",
        taps=matching_taps(student, original),
        after_step=after_step,
        device=CPU,
    )
    return details, student, masks, steps


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_sparse_student_recovers_and_stays_sparse(
    state: CompressionState, original: fx.GraphModule, ema: float | None
) -> None:
    teacher = digest(original)
    details, student, masks, steps = train_sparse(state, original, ema=ema)
    before, after = details["held_out_loss"]
    assert details["distillation_kept"] and after < 0.8 * before
    for name, mask in masks.items():
        assert not student.get_parameter(name)[~mask].any()
        assert student.get_parameter(name)[mask].any()
    count = 10 * -(-len(state.data.train) // 16)
    assert steps == [*range(1, count + 1), count]
    assert digest(original) == teacher == digest(clone(original))


def test_running_statistics_follow_the_weights_and_the_graph_stays_in_inference(
    state: CompressionState, original: fx.GraphModule
) -> None:
    _, student, *_ = train_sparse(state, original)
    was = dict(original.named_buffers())
    moved = [n for n, b in student.named_buffers() if not torch.equal(b, was[n])]
    assert len(moved) == 2 * len(batch_norms(student))
    assert not any(norm.args[5] for norm in batch_norms(student))
    norm = batch_norms(student)[0]
    weight = student.get_parameter(str(norm.args[0].args[1].target)).detach()
    seen = torch.nn.functional.conv2d(inputs(state, len(state.data.train)), weight, padding=1)
    mean = student.get_buffer(str(norm.args[3].target))
    assert torch.allclose(mean, seen.mean((0, 2, 3)), atol=1e-4)


def test_the_teacher_gives_outputs_and_features_in_one_pass(
    state: CompressionState, original: fx.GraphModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, taps = clone(original), matching_taps(original, original)
    loss = distillation_loss(student, original, Recovery(), classification=True, taps=taps)
    calls: list[int] = []
    forward = fx.GraphModule.__call__

    def count(module: fx.GraphModule, *args: Any) -> Any:
        calls.append(len(batch_norms(module)))
        return forward(module, *args)

    monkeypatch.setattr(fx.GraphModule, "__call__", count)
    with torch.no_grad():
        assert loss((inputs(state, 8),), None).item() == pytest.approx(0, abs=1e-4)
    assert calls == [len(batch_norms(original)), 0]  # the student, and the teacher folded


def test_training_uses_the_statistics_of_the_batch_and_judging_the_running_ones(
    state: CompressionState, original: fx.GraphModule
) -> None:
    student = clone(original)
    x = inputs(state, 16)
    losses = [
        distillation_loss(
            student, original, Distill(), classification=True, batch_statistics=training
        )
        for training in (True, False)
    ]
    buffers = {name: value.clone() for name, value in student.named_buffers()}
    with torch.no_grad():
        judged = losses[1]((x,), None)
        assert all(torch.equal(b, buffers[n]) for n, b in student.named_buffers())
        assert abs(losses[0]((x,), None) - judged) > 1e-5
    changed = [n for n, b in student.named_buffers() if not torch.equal(b, buffers[n])]
    assert len(changed) == 2 * len(batch_norms(student))


def test_what_must_keep_its_form_is_not_undone(
    state: CompressionState, original: fx.GraphModule
) -> None:
    student = clone(original)
    options = Distill(epochs=1, learning_rate=3.0, batch_size=16)
    details = distill(
        state, original, student, options, Silent(), title="t", undo=False, device=CPU
    )
    before, after = details["held_out_loss"]
    assert after > before and details["distillation_kept"]
    assert digest(student) != digest(original)


def test_samples_without_a_label_learn_from_the_teacher_alone(
    state: CompressionState, original: fx.GraphModule
) -> None:
    student = clone(original)
    with torch.no_grad():
        student.get_parameter("head.weight").mul_(-1)
    x = inputs(state, 8)
    labels = torch.from_numpy(state.data.train.batch(np.arange(8))[1])

    def loss(weight: float, targets: Tensor) -> float:
        options = Distill(hard_label_weight=weight)
        compare = distillation_loss(student, original, options, classification=True)
        with torch.no_grad():
            return float(compare((x,), targets))

    none = torch.full_like(labels, -1)
    assert loss(0.5, none) == loss(0.0, labels)
    half = torch.where(torch.arange(8) < 4, labels, none)
    with torch.no_grad():
        errors = torch.nn.functional.cross_entropy(student(x)[:4], labels[:4])
    expected = 0.75 * loss(0.0, labels) + 0.25 * float(errors)
    assert loss(0.5, half) == pytest.approx(expected, rel=1e-5)


def test_a_layer_that_is_not_there_is_refused_before_any_work(state: CompressionState) -> None:
    options = Recovery(feature_layers=("blocks.*", "block.0"))
    with pytest.raises(StageError, match=r"'block.0' fits no module .*did you mean blocks.0\?"):
        check_loss(state, options, stage="prune")
    check_loss(state, replace_layers(options, "blocks.*"), stage="prune")


def replace_layers(options: Recovery, *patterns: str) -> Recovery:
    return options.model_copy(update={"feature_layers": patterns})


def test_a_mask_among_the_inputs_says_which_tokens_count() -> None:
    ids = torch.zeros(2, 5, dtype=torch.int64)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = valid_tokens(["ids", "attention_mask"], (ids, mask))
    assert found is not None and torch.equal(found, mask.bool())
    inverted = valid_tokens(["ids", "key_padding_mask"], (ids, ~mask.bool()))
    assert inverted is not None and torch.equal(inverted, mask.bool())
    assert valid_tokens(["ids"], (ids,)) is None
    assert valid_tokens(["ids", "mask"], (ids, samples(2, 5))) is None


def test_a_later_stage_compares_features_with_what_it_was_given(
    state: CompressionState, original: fx.GraphModule, tmp_path: Path
) -> None:
    """Outputs come from the teacher, features from the program before the stage."""
    changed = clone(original)
    with torch.no_grad():
        changed.get_parameter("head.weight").mul_(-1)
    student = clone(changed)
    options = Recovery(epochs=5, batch_size=16, learning_rate=1e-2)
    details = distill(
        replace(state, model=changed),
        changed,
        student,
        options,
        Silent(),
        title="t",
        taps=matching_taps(student, changed),
        teacher=state.teacher,
        device=CPU,
    )
    before, after = details["held_out_loss"]
    assert 0 < after < before


def test_running_statistics_stay_where_they_are_asked_to(
    state: CompressionState, original: fx.GraphModule
) -> None:
    student = clone(original)
    options = Distill(epochs=1, batch_size=16, learning_rate=1e-3, ema=0.5)
    given = {"title": "t", "batch_statistics": False, "undo": False, "device": CPU}
    distill(state, original, student, options, Silent(), **given)
    was = dict(original.named_buffers())
    assert all(torch.equal(b, was[n]) for n, b in student.named_buffers())
    assert digest(student) != digest(original)
