"""The distill stage where outputs are numbers or bins, and where each teacher's answer counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import build, trace
from states import make_state
from torch import Tensor, nn

from edgekd.algorithms.pose_distillation import bins_loss
from edgekd.cache import StepCache
from edgekd.data.samples import ArraySamples
from edgekd.distillation.teachers import BlackBox
from edgekd.errors import StageError
from edgekd.progress import Silent
from edgekd.stages import distill
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage

TRAINING = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-2, "augment": "none"}
TOLERANT = {"file": "tolerant.onnx"}
TWO = {"losses": [{"loss": "two-teacher"}], "teachers": [TOLERANT]}


class Values(nn.Module):
    """Numbers to regress, behind two blocks."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.a, self.b, self.out = (
            nn.Linear(6, hidden),
            nn.Linear(hidden, hidden),
            nn.Linear(hidden, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.b(torch.relu(self.a(x)))))


class Bins(nn.Module):
    """Two keypoints: logits over bins of each axis."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.a, self.x, self.y = nn.Linear(6, hidden), nn.Linear(hidden, 16), nn.Linear(hidden, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.a(x))
        return self.x(x).reshape(-1, 2, 8), self.y(x).reshape(-1, 2, 6)


def make(folder: Path, net: Callable[[int], nn.Module]) -> CompressionState:
    made = make_state(build(lambda: net(16)), (6,), folder)
    student, _ = trace(build(lambda: net(5), 1), made.example[0])
    return replace(made, original=made.model, student=student, classification=False)


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    made = make(tmp_path_factory.mktemp("values"), Values)

    def with_truth(samples: Any) -> ArraySamples:
        arrays, _ = samples.batch(np.arange(len(samples)))
        (x,) = arrays.values()
        return ArraySamples(arrays, np.float32(np.tanh(x[:, :4]) / 2))

    parts = {name: with_truth(getattr(made.data, name)) for name in ("train", "calibration")}
    teacher = made.model

    @torch.no_grad()
    def tolerant(inputs: tuple[Tensor, ...]) -> Tensor:
        return teacher(*inputs) * 0.5 + 0.1

    return replace(
        made,
        data=replace(made.data, **parts),
        regression=True,
        others=(BlackBox("tolerant.onnx", "sha", tolerant),),
    )


@pytest.fixture(scope="module")
def bins(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    return make(tmp_path_factory.mktemp("bins"), Bins)


def stage(**given: Any) -> DistillStage:
    return DistillStage(stage="distill", **{"student": "net.py:small", **TRAINING, **given})


def run(state: CompressionState, **given: Any) -> CompressionState:
    distill.requires(state, stage(**given))
    return distill.run(state, stage(**given), Silent())


def first_loss(state: CompressionState, **given: Any) -> float:
    return float(run(state, epochs=1, max_steps=1, **given).details["train_loss"][0])


def test_each_teachers_answer_stands_beside_features(values: CompressionState) -> None:
    hint = {"loss": "hint", "layers": [{"student": "out", "teacher": "out"}]}
    both = first_loss(values, **{**TWO, "losses": [*TWO["losses"], hint]})
    assert both == pytest.approx(
        first_loss(values, **TWO) + first_loss(values, losses=[hint]), rel=1e-5
    )
    labels = first_loss(values, losses=[], label_weight=1.0)
    with_labels = first_loss(values, **TWO, label_weight=2.0)
    assert with_labels == pytest.approx(first_loss(values, **TWO) + 2 * labels, rel=1e-5)


def test_each_teachers_answer_is_stored_too(values: CompressionState, tmp_path: Path) -> None:
    options = {**TWO, "batch_size": len(values.data.train) // 4}
    cached = replace(values, cache=StepCache(tmp_path / "cache"))
    live, *stored = (run(given, **options) for given in (values, cached, cached))
    assert [s.details["teacher_cache"] for s in stored] == ["computed", "reused"]
    for found in stored:
        assert found.details["train_loss"] == pytest.approx(live.details["train_loss"], rel=1e-5)


def test_a_file_alone_is_learnt_from_whatever_the_original_says(values: CompressionState) -> None:
    given = {"teachers": [TOLERANT], "losses": [{"loss": "mse"}]}
    other, _ = trace(build(lambda: Values(16), 7), values.example[0])
    changed = replace(values, original=other)
    alone = [first_loss(state, **given, original_weight=0.0) for state in (values, changed)]
    assert alone[0] == alone[1]
    average = [first_loss(state, **given) for state in (values, changed)]
    assert average[0] != pytest.approx(average[1])
    assert run(values, **given, original_weight=0.0).details["student"]["teachers"] == 1


def test_bins_of_all_axes_are_learnt_and_judge_the_student(bins: CompressionState) -> None:
    after = run(bins, losses=[{"loss": "bins", "weight": 1.0}], epochs=8)
    before, last = after.details["held_out_loss"]
    assert last < before
    x = torch.from_numpy(
        next(
            iter(
                bins.data.inputs(bins.data.calibration, np.arange(len(bins.data.calibration)))[
                    0
                ].values()
            )
        )
    )
    assert bins.student is not None and bins.original is not None
    expected = bins_loss(bins.student(x), bins.original(x))
    assert before == pytest.approx(expected.item(), rel=1e-4)
    weighed = run(bins, losses=[{"loss": "bins"}, {"loss": "mse"}], max_steps=1)
    assert weighed.details["held_out_loss"][0] == pytest.approx(0.1 * before, rel=1e-4)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"losses": [{"loss": "two-teacher"}]}, "'two-teacher': it is for two teachers"),
        ({**TWO, "original_weight": 0.0}, "'two-teacher': it is for two teachers, .* there is 1"),
        (
            {"losses": [{"loss": "hint"}], "teachers": [TOLERANT], "original_weight": 0.0},
            "'hint': it compares tensors in between, and with 'original_weight: 0', as for an ONNX",
        ),
        ({"losses": [{"loss": "bins"}]}, r"'bins': it needs outputs \(keypoints, bins\) a sample"),
        ({"losses": [{"loss": "dense-kl"}]}, "'dense-kl': it needs class logits at each pixel"),
        ({"hard_augment": True}, "'hard_augment' goes by class probabilities"),
    ],
)
def test_refused_before_any_work(values: CompressionState, given: Any, reason: str) -> None:
    with pytest.raises(StageError, match=reason):
        distill.requires(values, stage(**given))


def test_a_file_teaches_one_output_only(bins: CompressionState) -> None:
    given = {"teachers": [TOLERANT], "original_weight": 0.0}
    with pytest.raises(StageError, match="the first output alone is used, and the model has 2"):
        distill.requires(bins, stage(**given))
    with pytest.raises(
        StageError, match=r"'label_weight' needs class logits .* or targets of floa"
    ):
        distill.requires(bins, stage(label_weight=1.0))
