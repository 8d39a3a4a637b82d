"""Samples without labels beside labelled ones, from real files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.data import unlabeled
from edgekd.data.samples import Array
from edgekd.data.source import Dataset, open_data
from edgekd.errors import DataError
from edgekd.job import CompressRequest, prepare

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 8, 6, 3), dtype=np.uint8)
EXTRA = RNG.integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
LABELS = np.arange(60) % 3


@pytest.fixture
def data(tmp_path: Path) -> str:
    np.savez(tmp_path / "d.npz", x=PIXELS, y=LABELS)
    return str(tmp_path / "d.npz")


def folder(root: Path, images: Array, *, mode: str = "RGB") -> str:
    """Write images below folders of any depth, whose names must not matter."""
    for number, pixels in enumerate(images):
        path = root / "more" / ("a/b" if number % 2 else "c") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path)
    (root / "more/readme.txt").write_text("no image")
    return str(root / "more")


def everything(data: Dataset) -> tuple[Array, Array]:
    raw, targets = data.train.batch(np.arange(len(data.train)))
    assert targets is not None
    return raw["x"], targets


@pytest.mark.parametrize("in_memory", [True, False])
def test_they_join_the_training_samples_only(
    data: str, tmp_path: Path, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlabeled, "MAX_BYTES", 2**30 if in_memory else 1)
    plain = open_data(data)
    found = open_data(data, unlabeled=folder(tmp_path, EXTRA))
    count = len(plain.train)
    assert len(found.train) == count + 5
    pixels, labels = everything(found)
    own, own_labels = everything(plain)
    assert np.array_equal(pixels[:count], own) and np.array_equal(labels[:count], own_labels)
    assert {x.tobytes() for x in pixels[count:]} == {x.tobytes() for x in EXTRA}
    assert labels[count:].tolist() == [-1] * 5 and labels.dtype == np.int64
    for name in ("calibration", "validation"):
        assert found.fingerprints[name] == plain.fingerprints[name]
    assert found.fingerprints["train"]["sha256"] != plain.fingerprints["train"]["sha256"]
    assert found.fingerprints["unlabeled"]["count"] == 5
    assert found.fingerprints["unlabeled"]["source"] == "more"


def test_any_mixture_of_indices_keeps_its_order(data: str, tmp_path: Path) -> None:
    found = open_data(data, unlabeled=folder(tmp_path, EXTRA))
    pixels, labels = everything(found)
    order = RNG.permutation(len(found.train))
    for chosen in (order, order[:1], np.array([len(labels) - 1, 0, len(labels) - 2])):
        raw, targets = found.train.batch(chosen)
        assert np.array_equal(raw["x"], pixels[chosen])
        assert np.array_equal(targets, labels[chosen])
    inputs, _ = found.inputs(found.train, order[:4])
    assert inputs["x"].dtype == np.float32 and inputs["x"].shape == (4, 3, 8, 6)


@pytest.mark.parametrize("layout", ["NCHW", "NHW", "NHWC1", "float targets", "no targets"])
def test_they_take_the_form_of_the_labelled_samples(tmp_path: Path, layout: str) -> None:
    x = {"NCHW": PIXELS.transpose(0, 3, 1, 2), "NHW": PIXELS[..., 0], "NHWC1": PIXELS[..., :1]}
    y = LABELS / 3 if layout == "float targets" else LABELS
    arrays = {"x": x.get(layout, PIXELS)} | ({} if layout == "no targets" else {"y": y})
    np.savez(tmp_path / "d.npz", **arrays)
    large = RNG.integers(0, 256, (3, 30, 20, 3), dtype=np.uint8)
    found = open_data(str(tmp_path / "d.npz"), unlabeled=folder(tmp_path, large))
    raw, targets = found.train.batch(np.array([0, len(found.train) - 1]))
    assert raw["x"].shape == (2, *arrays["x"].shape[1:])
    if layout == "no targets":
        assert targets is None
    else:
        assert targets is not None and (targets[1] == -1 or np.isnan(targets[1]))


def test_copies_of_held_out_samples_are_left_out_across_kinds_of_files(
    data: str, tmp_path: Path
) -> None:
    plain = open_data(data)
    held = [s.batch(np.arange(3))[0]["x"] for s in (plain.validation, plain.calibration)]
    trained = plain.train.batch(np.arange(2))[0]["x"]
    source = folder(tmp_path, np.concatenate([*held, EXTRA, trained]))
    found = open_data(data, unlabeled=source)
    assert found.fingerprints["unlabeled"]["count"] == 5 + 2
    assert "6 of 13 unlabelled samples are copies" in found.notes[-1]
    only_copies = folder(tmp_path / "other", np.concatenate(held))
    with pytest.raises(DataError, match="all samples are copies"):
        open_data(data, unlabeled=only_copies)


def test_arrays_join_arrays(tmp_path: Path) -> None:
    x = RNG.normal(size=(60, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=LABELS)
    np.savez(tmp_path / "u.npz", x=np.concatenate([x[:60], x + 1]))
    found = open_data(str(tmp_path / "d.npz"), unlabeled=str(tmp_path / "u.npz"))
    held = len(found.validation) + len(found.calibration)
    assert found.fingerprints["unlabeled"]["count"] == 120 - held
    np.savez(tmp_path / "u.npz", x=np.zeros((3, 5), np.float32))
    with pytest.raises(DataError, match=r"float32\[N, 4\] in train, but .*N, 5.*--unlabeled u.npz"):
        open_data(str(tmp_path / "d.npz"), unlabeled=str(tmp_path / "u.npz"))


def test_what_cannot_be_used_is_said_in_one_line(data: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged/deep").mkdir(parents=True)
    (tmp_path / "damaged/deep/bad.jpg").write_bytes(b"no image")
    np.savez(tmp_path / "floats.npz", x=np.zeros((20, 4), np.float32), y=np.arange(20) % 2)
    wrong = {
        "missing": "no such folder or .npz file",
        "empty": "there are no images in it",
        "damaged": r"bad\.jpg cannot be decoded",
    }
    for name, message in wrong.items():
        with pytest.raises(DataError, match=message) as caught:
            open_data(data, unlabeled=str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="join uint8 images only, and the data holds x of float"):
        open_data(str(tmp_path / "floats.npz"), unlabeled=folder(tmp_path, EXTRA))


def test_they_need_labelled_samples(tmp_path: Path) -> None:
    request = CompressRequest(tmp_path / "model.pt2", None, unlabeled=str(tmp_path))
    with pytest.raises(DataError, match="--unlabeled needs --data"):
        prepare(request)
