"""Samples that thresholds are chosen on, from real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekd.data import unlabeled
from edgekd.data.exit_samples import with_exit_samples
from edgekd.data.source import Dataset, open_data
from edgekd.errors import DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 3, 8, 6), dtype=np.uint8)
LABELS = np.arange(60) % 3
MORE = RNG.integers(0, 256, (9, 3, 8, 6), dtype=np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Images as NCHW, without names of classes."""
    np.savez(tmp_path / "d.npz", x=PIXELS, y=LABELS)
    return open_data(str(tmp_path / "d.npz"), mean=(0.5,) * 3, std=(0.25,) * 3)


def folder(root: Path, images: Any, classes: list[str]) -> str:
    """Write images as files, which are NHWC, below folders of classes."""
    for number, pixels in enumerate(images):
        path = root / "more" / classes[number % len(classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    return str(root / "more")


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_in_class_folders_come_in_the_layout_of_the_data(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    monkeypatch.setattr(unlabeled, "MAX_BYTES", 2**30 if in_memory else 1)
    found, samples = with_exit_samples(data, folder(tmp_path, MORE, ["a", "b", "c"]), 3)
    assert len(samples) == 9
    raw, targets = samples.batch(np.arange(9))
    (images,) = raw.values()
    order = [0, 3, 6, 1, 4, 7, 2, 5, 8]  # by class, and in it by name
    assert images.dtype == np.uint8 and np.array_equal(images, MORE[order])
    assert targets is not None and targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    inputs, labels = found.inputs(samples, np.array([8, 0]))
    assert labels is not None and labels.tolist() == [2, 0]
    (values,) = inputs.values()
    np.testing.assert_allclose(values, (MORE[[8, 0]] / 255 - 0.5) / 0.25, atol=1e-6)
    entry = found.fingerprints["exits"]
    assert entry["count"] == 9 and entry["source"] == "more"
    for name in ("train", "calibration", "validation"):
        assert found.fingerprints[name] == data.fingerprints[name]
    assert found.notes == data.notes and "exits" not in data.fingerprints


def test_arrays_keep_their_own_labels(data: Dataset, tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", x=MORE, y=np.arange(9) % 2)
    found, samples = with_exit_samples(data, str(tmp_path / "e.npz"), 3)
    raw, targets = samples.batch(np.array([3, 0]))
    (images,) = raw.values()
    assert np.array_equal(images, MORE[[3, 0]])
    assert targets is not None and targets.tolist() == [1, 0]
    assert found.fingerprints["exits"]["sha256"]


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_copies_are_left_out_with_their_labels_and_a_note(
    data: Dataset, tmp_path: Path, form: str
) -> None:
    mixed = np.concatenate([MORE[:2], PIXELS[7:9], MORE[2:4]])
    if form == "npz":
        source = str(tmp_path / "e.npz")
        np.savez(source, x=mixed, y=[0, 1, 2, 2, 0, 1])
        expected, order = [0, 1, 0, 1], [0, 1, 2, 3]
    else:
        source = folder(tmp_path, mixed, ["a", "b", "c"])
        expected, order = [0, 1, 1, 2], [0, 1, 2, 3]  # a: 0, 3; b: 1, 4; c: 2, 5
    found, samples = with_exit_samples(data, source, 3)
    raw, targets = samples.batch(np.arange(len(samples)))
    (images,) = raw.values()
    assert np.array_equal(images, MORE[order])
    assert targets is not None and targets.tolist() == expected
    assert found.fingerprints["exits"]["count"] == 4
    assert found.notes[-1].startswith("2 of 6 samples of --exit-data are copies")


def test_other_samples_give_another_fingerprint(data: Dataset, tmp_path: Path) -> None:
    marks = []
    for name, labels in (("a", [0] * 9), ("b", [1] * 9), ("c", [0] * 9)):
        np.savez(tmp_path / f"{name}.npz", x=MORE, y=labels)
        found, _ = with_exit_samples(data, str(tmp_path / f"{name}.npz"), 3)
        marks.append(found.fingerprints["exits"]["sha256"])
    assert marks[0] != marks[1] and marks[0] == marks[2]


def write(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": MORE}, "e.npz: it needs class labels, y or y_train"),
        ({"x": MORE, "y": np.linspace(0, 1, 9)}, "it needs class labels"),
        ({"x": MORE[:, :, :5], "y": np.zeros(9, np.int64)}, "--exit-data e.npz"),
        ({"x": MORE.astype(np.float32), "y": np.zeros(9, np.int64)}, "--exit-data e.npz"),
        ({"x": PIXELS[:5], "y": LABELS[:5]}, "all samples are copies of samples of --data"),
        ({"x": MORE, "y": np.arange(4)}, "9.*4|4.*9"),
        ({"x": MORE, "y": np.full(9, -1)}, "label -1 is negative"),
        (
            {"x": MORE, "y": np.arange(9) % 4},
            "a label is 3, and the model's classes go",
        ),
    ],
)
def test_arrays_that_cannot_be_used(
    data: Dataset, tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    source = write(tmp_path / "e.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        with_exit_samples(data, source, 3)
    assert "\n" not in str(caught.value)


def test_folders_that_cannot_be_used(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--exit-data .*: no such folder or \.npz file"):
        with_exit_samples(data, str(tmp_path / "nowhere"), 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there are no images in it"):
        with_exit_samples(data, str(tmp_path / "empty"), 3)
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.fromarray(MORE[0].transpose(1, 2, 0)).save(flat / "0.png")
    with pytest.raises(DataError, match=r"expected CLASS/\*\.jpg, found 0\.png in no folder"):
        with_exit_samples(data, str(flat), 3)
    few = folder(tmp_path / "few", MORE, ["a", "c"])  # which classes are these?
    with pytest.raises(DataError, match=r"2 class folders and the model 3 classes.*no names"):
        with_exit_samples(data, few, 3)
    assert len(with_exit_samples(data, few, None)[1]) == 9


def test_names_of_classes_are_those_of_the_data(tmp_path: Path) -> None:
    names = ["ant", "bee", "cat"]
    for part in ("train", "val"):
        for number in range(30):
            path = tmp_path / "d" / part / names[number % 3] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = RNG.integers(0, 256, (8, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    data = open_data(str(tmp_path / "d"))
    assert data.classes == tuple(names)
    _, samples = with_exit_samples(data, folder(tmp_path, MORE, ["cat", "bee"]), 3)  # no ants
    targets = samples.batch(np.arange(9))[1]
    assert targets is not None and targets.tolist() == [1] * 4 + [2] * 5
    other = folder(tmp_path / "other", MORE, ["cat", "dog"])
    with pytest.raises(DataError, match="with the classes ant, bee, cat, found dog"):
        with_exit_samples(data, other, 3)


def test_the_data_needs_class_labels_itself(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=PIXELS)
    with pytest.raises(DataError, match="--exit-data is for class labels"):
        with_exit_samples(open_data(str(tmp_path / "d.npz")), str(tmp_path / "d.npz"), 3)
