"""open_data on .npz files: forms, normalisation, every refusal."""

from pathlib import Path

import numpy as np
import pytest

from edgekd.data.source import open_data
from edgekd.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "../shared"
RNG = np.random.default_rng(0)


def images(count, shape=(3, 8, 8)):
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


def floats(count, *shape):
    return RNG.standard_normal((count, *(shape or (4,))))


def write(folder, **arrays):
    np.savez(folder / "d.npz", **arrays)
    return str(folder / "d.npz")


def test_given_validation_is_kept_and_calibration_leaves_training(tmp_path):
    x = images(50)
    path = write(
        tmp_path, x_train=x, y_train=np.arange(50) % 5, x_val=images(9), y_val=np.zeros(9, int)
    )
    data = open_data(path)
    assert (len(data.train), len(data.calibration), len(data.validation)) == (40, 10, 9)
    kept = [data.train.batch(np.arange(40))[0]["x"], data.calibration.batch(np.arange(10))[0]["x"]]
    assert sorted(row.tobytes() for part in kept for row in part) == sorted(r.tobytes() for r in x)
    assert data.train.batch(np.array([0]))[1].dtype == np.int64
    assert data.notes == ()


def test_one_set_is_split_by_the_seed(tmp_path):
    path = write(tmp_path, x=floats(100), y=np.arange(100) % 2)
    first, again, other = (open_data(path, seed=s) for s in (1, 1, 2))
    assert first.fingerprints == again.fingerprints != other.fingerprints
    assert {k: v["count"] for k, v in first.fingerprints.items()} == {
        "train": 64, "calibration": 16, "validation": 20,
    }  # fmt: skip
    assert all(f["source"] == "d.npz" for f in first.fingerprints.values())


def test_a_fingerprint_changes_with_a_label_and_with_a_pixel(tmp_path):
    x, y = images(20), np.zeros(20, int)
    prints = []
    for pixel, label in ((0, 0), (1, 0), (0, 1)):
        x[0, 0, 0, 0], y[0] = pixel, label
        path = write(tmp_path, x_train=images(5), y_train=np.zeros(5, int), x_val=x, y_val=y)
        prints.append(open_data(path).fingerprints["validation"]["sha256"])
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("shape", "layout", "channels"),
    [((3, 8, 8), "NCHW", 3), ((8, 8, 3), "NHWC", 3), ((8, 8), "NHW", 1), ((1, 8, 9), "NCHW", 1)],
)
def test_uint8_images_become_float_nchw(tmp_path, shape, layout, channels):
    data = open_data(write(tmp_path, x=images(10, shape)))
    assert data.preprocessing.layout == layout
    batch = data.example(3)["x"]
    assert batch.dtype == np.float32
    assert batch.shape[:2] == (3, channels)
    assert 0 <= batch.min() < batch.max() <= 1  # pixels / 255 by default


def test_mean_and_std_are_applied(tmp_path):
    path = write(tmp_path, x=np.full((10, 3, 5, 5), 255, np.uint8))
    data = open_data(path, mean=(0.5, 0.0, 1.0), std=(0.5, 2.0, 1.0))
    assert np.allclose(data.example()["x"][0, :, 0, 0], [1.0, 0.5, 0.0])


def test_floats_are_taken_as_they_are(tmp_path):
    x = floats(10)
    data = open_data(write(tmp_path, x=x, y=floats(10, 1)))
    raw, targets = data.inputs(data.validation, np.arange(2))
    assert data.preprocessing is None
    assert raw["x"].dtype == targets.dtype == np.float32
    assert all((row == x.astype(np.float32)).all(1).any() for row in raw["x"])


def test_several_inputs_and_names(tmp_path):
    path = write(tmp_path, **{"x.ids": np.ones((10, 4), np.int64), "x.image": images(10)})
    data = open_data(path, mean=(0, 0, 0), std=(1, 1, 1))
    assert data.image_input == "image"
    example = data.example()
    assert (example["ids"].dtype, example["image"].dtype) == (np.int64, np.float32)
    assert set(data.bind(["image", "ids"]).example()) == {"image", "ids"}
    with pytest.raises(DataError, match="inputs ids, image, but the model takes a, b"):
        data.bind(["a", "b"])


def test_a_single_input_takes_the_models_name(tmp_path):
    data = open_data(write(tmp_path, x=images(10))).bind(["pixels"])
    assert data.example()["pixels"].dtype == np.float32
    with pytest.raises(DataError, match="the model takes a, b"):
        data.bind(["a", "b"])


def test_copies_in_validation_are_noted(tmp_path):
    x = images(30)
    data = open_data(write(tmp_path, x_train=x, x_val=np.concatenate([x[:4], images(6)])))
    assert len(data.notes) == 1
    assert "4 of 10 validation samples" in data.notes[0]


def test_column_labels_are_flattened(tmp_path):
    data = open_data(write(tmp_path, x=floats(10), y=np.ones((10, 1), np.uint8)))
    assert data.train.batch(np.array([0]))[1].shape == (1,)


def nan_at_3(value):
    x = floats(10)
    x[3, 2] = value
    return x


X, Y = floats(10), np.zeros(10, int)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": X, "labels": Y}, "holds data, labels; expected x_train"),
        ({"x": X, "x_train": X}, "both x and x_train"),
        ({"x_train": X, "y_train": Y, "y_val": Y}, "y_val but no x_val"),
        ({"x": nan_at_3(np.nan)}, r"input x holds nan at index \[3, 2\]"),
        ({"x": nan_at_3(np.inf)}, r"input x holds inf at index \[3, 2\]"),
        ({"x": X, "y": Y[:9]}, "different lengths: input x 10, targets 9"),
        ({"x.a": X, "x.b": X[:5]}, "different lengths: input a 10, input b 5"),
        ({"x": X[:0]}, "data set is empty"),
        ({"x_train": X, "x_val": X[:0]}, "validation set is empty"),
        ({"x": X, "y": Y - 1}, "label -1 is negative"),
        ({"x": X, "y": nan_at_3(np.nan)}, "targets holds nan"),
        ({"x": np.array(["a"] * 10)}, "not numbers"),
        ({"x": X, "y": np.array([{}] * 10)}, "Python objects, which are never unpickled"),
        ({"x": np.float32(1)}, "single number"),
        ({"x": X[:1]}, "too few samples"),
        ({"x_train": X[:1], "x_val": X}, "too few samples"),
        ({"x_train": X, "x_val": floats(5, 3)}, r"float32\[N, 4\] in train, but float32\[N, 3\]"),
        ({"x_train": X, "x_val.a": X, "x_val.b": X}, "train has the inputs x, validation has a, b"),
        ({"x_train": X, "y_train": Y, "x_val": X}, "targets must be there for both"),
        ({"x_train": X, "y_train": Y, "x_val": X, "y_val": X[:, 0]}, "targets are int64"),
        ({"x": images(10, (3, 8, 3))}, "both could be"),
        ({"x": images(10, (5, 8, 7))}, "neither is"),
        ({"x": images(10, (7,))}, "3 or 4 axes"),
        ({"x.a": images(10), "x.b": images(10)}, "only one can be"),
    ],
)  # fmt: skip
def test_bad_arrays_are_refused_in_one_line(tmp_path, arrays, message):
    path = write(tmp_path, **arrays)
    with pytest.raises(DataError, match=message) as error:
        open_data(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"x": X}, {"mean": (0.5,)}, "--mean and --std are for uint8 images"),
        ({"x": images(10)}, {"mean": (0.5,)}, "--mean has 1 values, but images have 3"),
        ({"x": images(10)}, {"std": (1, 1, 1, 1)}, "--std has 4 values"),
        ({"x": images(10)}, {"std": (1, 0, 1)}, "std must be positive"),
        ({"x": images(10)}, {"image_size": (3, 16, 16)}, "8x8, but 16x16 is asked for"),
        ({"x": images(10)}, {"image_size": (1, 2, 3, 4)}, "must be .H, W."),
    ],
)
def test_bad_options_are_refused(tmp_path, arrays, options, message):
    with pytest.raises(DataError, match=message):
        open_data(write(tmp_path, **arrays), **options)


def test_pixels_may_be_without_a_label(tmp_path):
    labels = RNG.integers(-1, 4, (50, 8, 8))
    data = open_data(write(tmp_path, x=images(50), y=labels))
    assert data.train.batch(np.arange(len(data.train)))[1].min() == -1
    with pytest.raises(DataError, match="label -2 is negative"):
        open_data(write(tmp_path, x=images(50), y=labels - 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"hello", "not a .npz"),
        (b"PK\x03\x04junk", "truncated"),
        (b"\x80\x04N.", "not a .npz"),
    ],
)
def test_files_that_are_not_npz(tmp_path, content, message):
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_data(str(path))


def test_a_truncated_npz(tmp_path):
    path = Path(write(tmp_path, x=X))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="truncated"):
        open_data(str(path))


def test_one_bare_array(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(DataError, match="one bare array"):
        open_data(str(tmp_path / "x.npy"))


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_data(str(tmp_path / "none.npz"))


def test_the_public_cifar_sample():
    path = SHARED / "data/cifar10-5k.npz"
    if not path.is_file():
        pytest.skip("the CIFAR-10 sample is not beside the repository")
    data = open_data(str(path))
    assert (len(data.train), len(data.calibration), len(data.validation)) == (4573, 512, 500)
