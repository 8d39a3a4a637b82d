"""Whole runs with a student: from a file of the user's to a bundle, and back from the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import Tensor, nn

from edgekd.errors import EdgekdError, ModelError
from edgekd.export.onnx import export_onnx
from edgekd.graph.program import to_module
from edgekd.job import CompressRequest, prepare
from edgekd.model.save import save_model
from edgekd.model.trace import export_batched
from edgekd.pipeline import CompressResult, compress, plan

STUDENT = """
from torch import nn

def small():
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))

def other():
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))

def broken():
    raise RuntimeError("no such\\nlayer")

def number():
    return 3
"""
TRAINING = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2}
DISTILL = {"stage": "distill", "losses": [{"loss": "kl"}, {"loss": "hint"}], **TRAINING}
QUANTIZE = {"stage": "quantize", "calibration": {"method": "minmax"}, "distill": {"epochs": 1}}
PRUNE = {"stage": "prune", "macs": 0.7, "steps": 1, "multiple": 2, "samples": 16, "distill": None}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.hidden, self.head = nn.Linear(16, 24), nn.Linear(24, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(torch.relu(self.stem(x)))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 16)).astype(np.float32)
    torch.manual_seed(0)
    save_model(Net().eval(), torch.from_numpy(x[:2]), folder / "model.pt2")
    np.savez(folder / "data.npz", x=x, y=generator.integers(0, 3, len(x)))
    (folder / "student.py").write_text(STUDENT)
    return folder


def request(folder: Path, *stages: dict[str, Any], **given: Any) -> CompressRequest:
    (folder / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "stages": list(stages)}))
    return CompressRequest(
        folder / "model.pt2",
        str(folder / "data.npz"),
        recipe=str(folder / "mine.yaml"),
        out=folder / "out",
        cache=folder / "cache",
        target="raspberry-pi-5",  # is not here: nothing is timed
        **{"student": f"{folder / 'student.py'}:small", **given},
    )


@pytest.fixture(scope="module")
def result(folder: Path) -> CompressResult:
    return compress(request(folder, DISTILL, PRUNE, QUANTIZE))


def test_a_student_is_distilled_pruned_and_quantized(result: CompressResult) -> None:
    distilled, pruned, _ = result.manifest["stages"][-3:]
    before, after = distilled["details"]["student"]["parameters"]
    assert after == 16 * 8 + 8 + 8 * 3 + 3 < before
    assert distilled["details"]["student"]["factory"] == "student.py:small"
    # Pruning starts from the student, not from the original.
    assert pruned["details"]["prune"]["parameters"][0] == after
    assert onnx.load(str(result.out / "model.onnx")).graph.output[0].name == "output"
    assert torch.export.load(result.out / "model.pt2").module()(torch.zeros(2, 16)).shape == (2, 3)


def test_finished_steps_come_back_until_the_student_changes(
    folder: Path, result: CompressResult
) -> None:
    asked = request(folder, DISTILL, PRUNE, QUANTIZE)
    assert [step.cached for step in plan(asked).steps] == [True] * 4
    file = folder / "student.py"
    file.write_text(STUDENT.replace("nn.ReLU()", "nn.GELU()"))
    assert [step.cached for step in plan(asked).steps] == [True, False, False, False]
    file.write_text(STUDENT)

    weights = folder / "weights.pt"
    torch.save(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).state_dict(), weights)
    asked = request(folder, DISTILL, student_weights=weights)
    assert [step.cached for step in plan(asked).steps] == [True, False]
    assert result.passed or result.messages


def test_a_student_starts_the_same_in_every_run(folder: Path) -> None:
    first, second = (prepare(request(folder, DISTILL)).student for _ in range(2))
    assert first is not None and second is not None and first.sha256 == second.sha256
    pairs = zip(first.program.state_dict.values(), second.program.state_dict.values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (
            "other",
            "gives output: float32[N, 4], but the model that teaches gives output: float32[N, 3]",
        ),
        ("broken", "student.py:broken() failed: RuntimeError: no such"),
        ("number", "returned a int, not a torch.nn.Module"),
        ("smal", "has no function smal; did you mean small?"),
    ],
)
def test_a_student_that_cannot_be_used(folder: Path, factory: str, reason: str) -> None:
    with pytest.raises(EdgekdError) as caught:
        prepare(request(folder, DISTILL, student=f"{folder / 'student.py'}:{factory}"))
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    torch.save(Net().state_dict(), folder / "wrong.pt")
    with pytest.raises(ModelError, match=r"does not fit the model that --student builds"):
        prepare(request(folder, DISTILL, student_weights=folder / "wrong.pt"))


@pytest.mark.slow
def test_a_frozen_onnx_file_teaches_too(folder: Path) -> None:
    torch.manual_seed(1)
    job = prepare(request(folder, DISTILL))
    other = to_module(export_batched(Net().eval(), job.loaded.example))
    content = export_onnx(other, job.loaded.example, job.loaded.spec, opset=17)
    (folder / "other.onnx").write_bytes(content)
    found = compress(
        CompressRequest(
            folder / "model.pt2",
            str(folder / "data.npz"),
            recipe="student-ensemble",
            student=f"{folder / 'student.py'}:small",
            teachers=(folder / "other.onnx",),
            out=folder / "out",
            cache=folder / "cache",
        )
    )
    details = found.manifest["stages"][-1]["details"]
    assert details["student"]["teachers"] == 2
    assert details["train_loss"][-1] < details["train_loss"][0]
