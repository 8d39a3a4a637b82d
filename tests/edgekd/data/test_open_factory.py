"""open_data on a user's own function."""

import textwrap

import numpy as np
import pytest

from edgekd.data.source import open_data
from edgekd.errors import DataError


@pytest.fixture
def factory(tmp_path):
    def write(body, imports="import numpy as np\nimport torch\n"):
        path = tmp_path / "my_data.py"
        path.write_text(
            f"{imports}\ndef make():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        )
        return f"{path}:make"

    return write


def test_torch_loaders(factory):
    source = factory("""
        from torch.utils.data import DataLoader, TensorDataset
        def loader(n):
            return DataLoader(TensorDataset(torch.randn(n, 4), torch.arange(n) % 3), batch_size=4)
        return {"train": loader(20), "validation": loader(6), "calibration": loader(5)}
    """)
    data = open_data(source)
    assert (len(data.train), len(data.calibration), len(data.validation)) == (20, 5, 6)
    inputs, targets = data.inputs(data.validation, np.arange(6))
    assert inputs["x"].shape == (6, 4)
    assert targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.fingerprints["train"]["source"] == "my_data.py:make"


def test_tuples_dicts_and_bare_inputs(factory):
    data = open_data(factory("""
        x = np.zeros((10, 4), np.float64)
        return {"train": [((x, x), x[:, 0])], "validation": [((x, x), x[:, 0])]}
    """))  # fmt: skip
    assert set(data.bind(["ids", "mask"]).example()) == {"ids", "mask"}
    data = open_data(factory("""
        x = {"b": torch.zeros(10, 4, requires_grad=True), "a": torch.ones(10)}
        return {"train": [x], "validation": [x]}
    """))  # fmt: skip
    assert set(data.example()) == {"a", "b"}
    assert data.validation.batch(np.array([0]))[1] is None


def test_images_are_normalised(factory):
    body = """
        x = torch.full((9, 3, 5, 5), 255, dtype=torch.uint8)
        return {"train": [x], "validation": [x]}
    """
    data = open_data(factory(body), mean=(1, 1, 1), std=(1, 1, 1))
    assert data.example()["x"].max() == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "must return a dict with train and validation, not int"),
        ("return {'train': []}", r"not \['train'\]"),
        ("return {'train': [], 'validation': [], 'foo': []}", "returned foo; known are"),
        ("return {'train': [], 'validation': []}", "train: the train set is empty"),
        ("return {'train': 3, 'validation': []}", "train is a int, not an iterable"),
        ("raise OSError('disk gone')", r"make\(\) failed: OSError: disk gone"),
        ("import sys; sys.exit(1)", "failed: SystemExit"),
        (
            "x = np.ones((5, 2)); return {'train': [x], 'validation': [x[:, :1]]}",
            r"float32\[N, 1\]",
        ),
        (
            "x = np.ones(2); return {'train': [(x, x), x], 'validation': [x]}",
            "some have none",
        ),
        ("return {'train': [(3, 4)], 'validation': [3]}", "samples on axis 0"),
        ("return {'train': [[{}, 3, 4]], 'validation': [3]}", "samples on axis 0"),
        (
            "return {'train': [np.ones(2), np.ones((2, 3))], 'validation': []}",
            "reading train failed",
        ),
        ("return {'train': [np.array([1, np.nan])], 'validation': []}", r"train input x holds nan"),
    ],
)
def test_mistakes_in_the_users_function(factory, body, message):
    with pytest.raises(DataError, match=message) as error:
        open_data(factory(body))
    assert "\n" not in str(error.value)


def test_wrong_names(factory, tmp_path):
    source = factory("return {}").removesuffix(":make")
    with pytest.raises(DataError, match="has no function mak; did you mean make"):
        open_data(f"{source}:mak")
    with pytest.raises(DataError, match="name the function too"):
        open_data(source)
    with pytest.raises(DataError, match="no such file"):
        open_data(f"{tmp_path}/none.py:make")
    with pytest.raises(DataError, match="ModuleNotFoundError"):
        open_data("no_such_package.data:make")
