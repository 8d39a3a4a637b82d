"""A student from the user's file: what identifies it, and what it may not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.model.load import OpenedModel
from edgekd.model.program import LoadedModel, to_program
from edgekd.model.student import load_student

SOURCE = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.ReLU(), nn.Linear(3, 2))

def integers():
    class Net(nn.Module):
        def forward(self, x):
            return x[:, :2].long()
    return Net()
"""


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    net = nn.Linear(4, 2).eval()
    return to_program(OpenedModel("x", net, None, "", {}), (torch.zeros(2, 4),))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "student.py"
    path.write_text(SOURCE)
    return path


def weights(found: LoadedModel) -> list[Tensor]:
    return list(found.program.state_dict.values())


def test_new_weights_come_from_the_seed_alone(file: Path, model: LoadedModel) -> None:
    state = torch.get_rng_state()
    first, again, other = (
        load_student(f"{file}:small", None, model, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))
    assert not torch.equal(weights(first)[0], weights(other)[0])
    assert first.sha256 == again.sha256 == other.sha256, "the seed is in a step's key by itself"


def test_a_checkpoint_and_the_source_decide_who_it_is(
    file: Path, model: LoadedModel, tmp_path: Path
) -> None:
    new = load_student(f"{file}:small", None, model, seed=0)
    stored = {"0.weight": torch.ones(3, 4), "0.bias": torch.ones(3)}
    stored |= {"3.weight": torch.ones(2, 3), "3.bias": torch.ones(2)}
    torch.save(stored, tmp_path / "w.pt")
    filled = load_student(f"{file}:small", tmp_path / "w.pt", model, seed=0)
    assert all((tensor == 1).all() for tensor in weights(filled))
    file.write_text(SOURCE + "\n# a remark\n")
    changed = load_student(f"{file}:small", None, model, seed=0)
    assert len({new.sha256, filled.sha256, changed.sha256}) == 3


def test_outputs_of_another_type_are_refused(file: Path, model: LoadedModel) -> None:
    with pytest.raises(ModelError, match=r"int64\[N, 2\], but the model that .*float32\[N, 2\]"):
        load_student(f"{file}:integers", None, model, seed=0)


def test_a_program_is_no_checkpoint_of_weights(
    file: Path, model: LoadedModel, tmp_path: Path
) -> None:
    torch.export.save(model.program, tmp_path / "w.pt2")
    with pytest.raises(ModelError, match="is not a checkpoint of weights"):
        load_student(f"{file}:small", tmp_path / "w.pt2", model, seed=0)
