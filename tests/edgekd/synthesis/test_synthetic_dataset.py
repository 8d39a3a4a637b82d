"""Synthesised images as data: requirements, cache, split and input range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import Chain, Mlp, TwoInputs, build, samples
from torch import nn

from edgekd.cache import StepCache
from edgekd.errors import ModelError
from edgekd.model.load import OpenedModel
from edgekd.preprocessing import ImagePreprocessing
from edgekd.progress import Silent
from edgekd.recipe import Synthesis
from edgekd.synthesis.dataset import ImagePlan, open_images, plan_images, synthesise, usual_range

FAST = Synthesis(images=40, batch_size=20, steps=1)


def opened(net: nn.Module) -> OpenedModel:
    source = {"file": "net.pt", "kind": "state_dict", "sha256": "0"}
    return OpenedModel("state_dict", net, None, "0" * 64, source)


@pytest.fixture(scope="module")
def plan() -> ImagePlan:
    return plan_images(opened(build(Chain)), None, (3, 8, 8), FAST, 0)


@pytest.fixture(scope="module")
def cache(plan: ImagePlan, tmp_path_factory: pytest.TempPathFactory) -> StepCache:
    cache = StepCache(tmp_path_factory.mktemp("cache"))
    synthesise(plan, cache, Silent())
    return cache


class NoNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 6, 6])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


@pytest.mark.parametrize(
    ("net", "shape", "words"),
    [
        (NoNorm, (3, 8, 8), "has no BatchNorm layer"),
        (TwoInputs, (3, 8, 8), "takes 2 inputs"),
        (Mlp, (16,), "shape (16) and not images"),
    ],
)
def test_other_models_are_refused_with_the_alternatives(
    net: type[nn.Module], shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ModelError) as error:
        plan_images(opened(build(net)), None, shape, FAST, 0)
    message = str(error.value)
    assert words in message and "net.pt" in message
    assert "--data with a few hundred unlabelled samples" in message
    assert "\n" not in message


def test_a_checkpoint_needs_the_input_shape() -> None:
    with pytest.raises(ModelError, match="add --input-shape, as 3,224,224, or --data"):
        plan_images(opened(build(Chain)), None, None, FAST, 0)


def test_images_come_from_the_cache_the_second_time(plan: ImagePlan, cache: StepCache) -> None:
    notes: list[str] = []

    class Notes(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    written = cache.folder(plan.key)
    assert written is not None
    before = (written / "images.npy").stat().st_mtime_ns
    record = synthesise(plan, cache, Notes())
    assert record["images"] == 40 and len(record["loss"]) == 2 and record["seconds"] > 0
    assert (written / "images.npy").stat().st_mtime_ns == before
    assert notes == ["synthesis: already done, images taken from the cache"]


def test_settings_seed_and_model_decide_the_key(plan: ImagePlan) -> None:
    other = replace(plan.loaded, sha256="1" * 64)
    plans = [
        plan,
        replace(plan, seed=1),
        replace(plan, options=FAST.model_copy(update={"steps": 2})),
        replace(plan, loaded=other),
    ]
    assert len({p.key for p in plans}) == 4
    assert replace(plan).key == plan.key


@pytest.mark.parametrize(("trains", "counts"), [(True, (28, 7, 5)), (False, (0, 35, 5))])
def test_the_images_are_dealt_out_whole_and_without_labels(
    plan: ImagePlan, cache: StepCache, trains: bool, counts: tuple[int, int, int]
) -> None:
    data = open_images(plan, cache, calibration_samples=512, trains=trains, preprocessing=None)
    parts = (data.train, data.calibration, data.validation)
    assert tuple(map(len, parts)) == counts
    rows = [data.inputs(part, np.arange(len(part)))[0]["x"] for part in parts]
    folder = cache.folder(plan.key)
    assert folder is not None
    stored = np.load(folder / "images.npy")
    assert {r.tobytes() for r in np.concatenate(rows)} == {s.tobytes() for s in stored}
    assert data.inputs(data.validation, np.arange(2))[1] is None
    assert all("BatchNorm" in part["source"] for part in data.fingerprints.values())
    assert "accuracy on real images is unknown" in data.notes[0]


def test_the_input_range_is_that_of_real_pixels(plan: ImagePlan, cache: StepCache) -> None:
    steps = ImagePreprocessing("NHWC", (0.5, 0.4, 0.5), (0.25, 0.2, 0.5))
    data = open_images(plan, cache, calibration_samples=9, trains=False, preprocessing=steps)
    assert data.input_ranges == {"x": pytest.approx((-2.0, 3.0))}
    black_and_white = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1).repeat(3, 3)
    reached = steps(black_and_white)
    assert (reached.min(), reached.max()) == pytest.approx(steps.range())
    assert len(data.notes) == 1


def test_without_mean_and_std_the_range_is_guessed_wide(plan: ImagePlan, cache: StepCache) -> None:
    data = open_images(plan, cache, calibration_samples=9, trains=False, preprocessing=None)
    low, high = data.input_ranges["x"]
    assert low < -2.1 and high > 2.6  # what ImageNet's mean and std make of black and white
    assert "no --mean and --std" in data.notes[1]
    images = samples(64, 2, 8, 8).numpy()
    images[0, 0, 0, 0] = 50.0
    assert usual_range(images)[1] == 50.0
