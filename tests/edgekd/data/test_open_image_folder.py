"""open_data on image folders."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.data.image_folder import resize_and_crop
from edgekd.data.source import open_data
from edgekd.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "../shared"
RNG = np.random.default_rng(0)


def picture(path, size=(8, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode).save(path)


@pytest.fixture
def tree(tmp_path):
    for label in ("cat", "dog"):
        for number in range(10):
            picture(tmp_path / f"train/{label}/{number}.png")
    return tmp_path


def test_training_is_split_when_there_is_no_validation(tree):
    data = open_data(str(tree))
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.calibration), len(data.validation)) == (13, 3, 4)
    inputs, targets = data.inputs(data.validation, np.arange(4))
    assert inputs["x"].shape == (4, 3, 8, 6)
    assert sorted(targets) == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["val", "test"])
def test_validation_may_lack_classes_but_not_add_them(tree, name):
    picture(tree / name / "dog/1.jpg")
    data = open_data(str(tree))
    assert data.validation.batch(np.array([0]))[1].tolist() == [1]
    picture(tree / name / "cow/1.jpg")
    with pytest.raises(DataError, match="classes that train/ does not have: cow"):
        open_data(str(tree))


def test_every_mode_of_image_becomes_rgb(tree):
    for mode in ("L", "P", "RGBA", "1", "CMYK"):
        picture(tree / f"val/cat/{mode}.{'jpg' if mode == 'CMYK' else 'png'}", mode=mode)
    data = open_data(str(tree))
    assert data.validation.batch(np.arange(5))[0]["x"].shape == (5, 8, 6, 3)


def test_images_are_resized_when_a_size_is_given(tree):
    picture(tree / "val/cat/large.png", (50, 20))
    data = open_data(str(tree), image_size=(3, 16, 12))
    assert data.inputs(data.validation, np.array([0]))[0]["x"].shape == (1, 3, 16, 12)
    grey = open_data(str(tree), image_size=(1, 16, 16))
    assert grey.example()["x"].shape == (2, 1, 16, 16)


def test_crop_keeps_the_centre():
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 255
    cropped = np.asarray(resize_and_crop(Image.fromarray(stripes), (10, 10)))
    assert cropped.shape == (10, 10, 3)
    assert cropped.min() == 255


def test_images_of_unequal_size_are_named(tree):
    picture(tree / "val/cat/odd.png", (9, 9))
    data = open_data(str(tree))
    with pytest.raises(DataError, match=r"odd.png is 9x9, but others are 8x6: give --input-shape"):
        data.inputs(data.validation, np.array([0]))


def test_a_damaged_image_is_named(tree):
    whole = (tree / "train/cat/0.png").read_bytes()
    (tree / "val/cat").mkdir(parents=True)
    (tree / "val/cat/cut.png").write_bytes(whole[: len(whole) // 2])
    (tree / "val/cat/text.png").write_text("hello")
    data = open_data(str(tree))
    for index, name in enumerate(("cut.png", "text.png")):
        with pytest.raises(DataError, match=f"{name} cannot be decoded"):
            data.validation.batch(np.array([index]))


def test_copies_in_validation_are_noted(tree):
    (tree / "val/cat").mkdir(parents=True)
    (tree / "val/cat/copy.png").write_bytes((tree / "train/cat/0.png").read_bytes())
    assert "1 of 1 validation samples" in open_data(str(tree)).notes[0]


def test_wrong_folders(tmp_path):
    with pytest.raises(DataError, match="has no folder train/CLASS/"):
        open_data(str(tmp_path))
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="holds no class folders"):
        open_data(str(tmp_path))
    (tmp_path / "train/cat").mkdir()
    with pytest.raises(DataError, match="cat holds no images"):
        open_data(str(tmp_path))
    picture(tmp_path / "train/cat/1.png")
    with pytest.raises(DataError, match="too few samples"):
        open_data(str(tmp_path))


def test_the_public_cifar_tree(tmp_path):
    archive = SHARED / "data/cifar10-jpeg.tar.xz"
    if not archive.is_file():
        pytest.skip("the CIFAR-10 JPEG tree is not beside the repository")
    with tarfile.open(archive) as tar:  # the first part is enough, and unpacking all is slow
        for number, member in enumerate(tar):
            if number > 300:
                break
            tar.extract(member, tmp_path, filter="data")
    (tmp_path / "cifar10/test").rename(tmp_path / "cifar10/train")
    for empty in [d for d in (tmp_path / "cifar10/train").iterdir() if not any(d.iterdir())]:
        empty.rmdir()
    data = open_data(str(tmp_path / "cifar10"))
    assert data.example()["x"].shape == (2, 3, 32, 32)
