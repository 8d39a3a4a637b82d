from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd import demo
from edgekd.errors import DataError
from edgekd.progress import Silent


def test_digits_are_split_without_overlap() -> None:
    arrays = demo.load_digits(0)
    assert arrays["x_train"].dtype == np.uint8
    assert arrays["x_train"].max() == 255
    assert len(arrays["x_train"]) + len(arrays["x_val"]) == 1797
    assert len(arrays["x_val"]) == len(arrays["y_val"]) == demo.N_VALIDATION


def test_training_learns_repeats_and_leaves_no_trace() -> None:
    arrays = demo.load_digits(0)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first, second = (demo.train(arrays, Silent(), seed=0, epochs=2) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert demo.accuracy(first, arrays["x_val"], arrays["y_val"]) > 0.8
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EPOCHS", 1)
    made = demo.make_demo(tmp_path / "new", Silent())
    program = torch.export.load(made.model)
    assert program.module()(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    with np.load(made.data) as arrays:
        assert set(arrays) == {"x_train", "y_train", "x_val", "y_val"}


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EPOCHS", 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        demo.make_demo(tmp_path / "file", Silent())
