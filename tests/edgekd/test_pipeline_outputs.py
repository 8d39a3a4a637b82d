"""Whole runs where outputs are no class logits, or where a frozen file is the only teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from networks import build, conv_bn
from torch import Tensor, nn

from edgekd.errors import DataError, EdgekdError
from edgekd.evaluate import evaluate
from edgekd.export.onnx import export_onnx
from edgekd.graph.program import to_module
from edgekd.job import CompressRequest
from edgekd.model.load import OpenedModel
from edgekd.model.program import to_program
from edgekd.model.save import save_model
from edgekd.pipeline import CompressResult, compress, plan

STUDENT = """
import torch
from torch import nn

def maps():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.Conv2d(4, 4, 1), nn.Upsample(scale_factor=2.0))

def numbers():
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
"""
TRAINING = {"epochs": 1, "max_steps": 3, "batch_size": 16, "learning_rate": 1e-2}
DISTILL: dict[str, Any] = {"stage": "distill", "augment": "none", **TRAINING}
QUANTIZE = {"stage": "quantize", "calibration": {"method": "minmax"}, "distill": None}


class Segmenter(nn.Module):
    """Classes at each pixel, from a map of half the size and one of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.head = (
            conv_bn(3, 6),
            conv_bn(6, 8, stride=2),
            nn.Conv2d(14, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        deep = F.interpolate(torch.relu(self.deep(x)), scale_factor=2.0)
        return self.head(torch.cat([x, deep], 1))


class Numbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(x)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks, data and students for every kind of output."""
    folder = tmp_path_factory.mktemp("outputs")
    generator = np.random.default_rng(0)
    (folder / "student.py").write_text(STUDENT)
    images = generator.normal(size=(48, 3, 8, 8)).astype(np.float32)
    net = build(Segmenter)
    with torch.no_grad():
        net.head.weight.mul_(6)  # an untrained network is sure of nothing
    save_model(net, torch.from_numpy(images[:2]), folder / "maps.pt2")
    with torch.no_grad():
        labels = net(torch.from_numpy(images)).argmax(1).numpy().astype(np.uint8)
    labels[:, 0] = 255  # a row that nobody labelled
    np.savez(folder / "maps.npz", x=images, y=labels)

    x = generator.normal(size=(64, 16)).astype(np.float32)
    net = build(Numbers)
    save_model(net, torch.from_numpy(x[:2]), folder / "numbers.pt2")
    with torch.no_grad():
        values = net(torch.from_numpy(x)).numpy()
    np.savez(folder / "numbers.npz", x=x, y=values)
    np.savez(folder / "embeddings.npz", x=x)
    np.savez(folder / "classes.npz", x=x, y=values.argmax(1))
    return folder


def request(folder: Path, kind: str, *stages: dict[str, Any], **given: Any) -> CompressRequest:
    (folder / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "stages": list(stages)}))
    net = "maps" if kind == "maps" else "numbers"
    return CompressRequest(
        folder / f"{net}.pt2",
        str(folder / f"{kind}.npz"),
        target="raspberry-pi-5",  # its latency is not measured here
        recipe=str(folder / "mine.yaml"),
        out=folder / "out",
        cache=folder / "cache",
        **{"student": f"{folder / 'student.py'}:{net}", **given},
    )


def distilled(result: CompressResult) -> dict[str, Any]:
    (stage,) = (s for s in result.manifest["stages"] if s["name"] == "distill")
    found: dict[str, Any] = stage["details"]
    return found


def test_a_segmenter_is_distilled_at_every_pixel(folder: Path) -> None:
    losses = [
        {"loss": "dense-kl", "labelled_only": True},
        {"loss": "acam", "layers": [{"student": "1", "teacher": "deep"}]},
    ]
    done = compress(request(folder, "maps", {**DISTILL, "losses": losses, "label_weight": 0.5}))

    details = distilled(done)
    assert details["student"]["compared"] and details["student"]["training_only_parameters"] > 0
    assert details["held_out_loss"][1] < details["held_out_loss"][0]
    first, last = done.manifest["stages"]
    assert (first["metric"], first["accuracy"]) == ("miou", 1.0)
    assert "right pixels" in (done.out / "report.html").read_text("utf-8")
    again = evaluate(done.out, str(folder / "maps.npz"))
    assert again.same_samples and 0 < again.quality.value < 1
    assert again.quality.value == pytest.approx(last["accuracy"], abs=0.02)
    right = last["quality"]["pixel_accuracy"]
    assert again.quality.pixel_accuracy == pytest.approx(right, abs=0.02)

    with np.load(folder / "maps.npz") as arrays:
        np.savez(folder / "wrong.npz", x=arrays["x"], y=arrays["y"] % 100 + 9)
    with pytest.raises(DataError, match="the model gives classes at each pixel, and the labels"):
        evaluate(done.out, str(folder / "wrong.npz"))


def test_labels_of_pixels_do_not_move_with_the_image(folder: Path) -> None:
    stage = {**DISTILL, "label_weight": 0.5, "augment": "crop-flip"}
    with pytest.raises(EdgekdError, match=r"'augment: crop-flip' moves images and not the labels"):
        compress(request(folder, "maps", stage))


@pytest.mark.slow
def test_pixels_are_learnt_without_being_asked_for_it_and_quantized(folder: Path) -> None:
    stage = {**DISTILL, "augment": "crop-flip", "epochs": 8, "max_steps": 24}
    done = compress(request(folder, "maps", stage, QUANTIZE | {"distill": {"epochs": 1}}))
    details = distilled(done)
    assert [entry["loss"] for entry in details["student"]["losses"]] == ["dense-kl"]
    assert details["held_out_loss"][1] < details["held_out_loss"][0]
    _, student, integers = done.manifest["stages"]
    assert integers["name"] == "quantize" and integers["metric"] == "miou"
    assert integers["accuracy"] > 0.8 * student["accuracy"]
    assert done.manifest["parity"]["passed"]


def write_teacher(folder: Path, name: str, seed: int = 0) -> str:
    """Write a frozen teacher of four outputs and return its path."""
    net = OpenedModel("x", build(Numbers, seed), None, "", {})
    loaded = to_program(net, (torch.zeros(2, 16),))
    path = folder / f"{name}.onnx"
    path.write_bytes(export_onnx(to_module(loaded.program), loaded.example, loaded.spec, opset=17))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "losses", "label_weight", "metric"),
    [
        ("numbers", [{"loss": "two-teacher"}, {"loss": "smooth-l1"}], 0.5, "r2"),
        ("numbers", [], 1.0, "r2"),
        ("embeddings", [{"loss": "cosine"}], 0.0, "cosine"),
    ],
)
def test_numbers_and_embeddings(
    folder: Path, kind: str, losses: Any, label_weight: float, metric: str
) -> None:
    stage = {**DISTILL, "losses": losses, "label_weight": label_weight, "epochs": 4, "max_steps": 9}
    if losses and losses[0]["loss"] == "two-teacher":
        stage["teachers"] = [{"file": write_teacher(folder, "tolerant", 1)}]
    done = compress(request(folder, kind, stage, QUANTIZE))
    details = distilled(done)
    assert details["train_loss"][-1] < details["train_loss"][0]
    assert {entry["metric"] for entry in done.manifest["stages"]} == {metric}


def test_an_onnx_model_teaches_a_student_in_its_place(folder: Path) -> None:
    path = Path(write_teacher(folder, "original", 3))
    stage = {**DISTILL, "losses": [{"loss": "kl"}, {"loss": "first", "top_k": 2}]}
    asked = request(folder, "classes", stage)
    done = compress(replace(asked, model=path))
    details = distilled(done)
    assert (details["student"]["teachers"], details["student"]["factory"]) == (
        1,
        "student.py:numbers",
    )
    assert done.manifest["source"]["kind"] == "onnx"
    assert (done.out / "baseline.onnx").read_bytes() == path.read_bytes()
    first, last = done.manifest["stages"]
    assert first["quality"]["agreement"] == 1.0 and last["quality"]["agreement"] < 1.0
    assert [step.cached for step in plan(replace(asked, model=path)).steps] == [True, True]

    for changed, reason in (
        ({**stage, "losses": [{"loss": "hint"}]}, "'hint': it compares tensors in between, and"),
        (QUANTIZE, "is an ONNX model, which cannot be changed: .* give --student"),
    ):
        student = None if changed is QUANTIZE else asked.student
        wrong = request(folder, "classes", changed, student=student)
        with pytest.raises(EdgekdError, match=reason):
            compress(replace(wrong, model=path))


@pytest.mark.slow
def test_a_frozen_file_is_the_only_teacher(folder: Path) -> None:
    teachers = {"teachers": [{"file": write_teacher(folder, "only", 3)}], "original_weight": 0.0}
    losses = [{"loss": "kl"}, {"loss": "first", "top_k": 2}, {"loss": "ferkd"}]
    stage = {**DISTILL, **teachers, "losses": losses}
    done = compress(request(folder, "classes", stage, student=None))
    details = distilled(done)
    assert details["student"]["teachers"] == 1 and details["student"]["factory"] is None
    assert details["held_out_loss"][1] < details["held_out_loss"][0], "towards the file's answers"
