"""Whole runs of more than one stage: what a stage tells the next one, also from the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import numpy_helper
from torch import nn

from edgekd.job import CompressRequest
from edgekd.model.save import save_model
from edgekd.pipeline import compress, plan
from edgekd.progress import Silent

SPARSIFY = {"stage": "sparsify", "pattern": "2:4", "keep_ends": False, "distill": None}
TRAINING = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2, "augment": "none"}
QUANTIZE = {"stage": "quantize", "calibration": {"method": "minmax"}, "distill": TRAINING}


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 16)).astype(np.float32)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    save_model(net, torch.from_numpy(x[:2]), folder / "model.pt2")
    np.savez(folder / "data.npz", x=x, y=generator.integers(0, 3, len(x)))
    return folder


def request(folder: Path, **sparsify: Any) -> CompressRequest:
    recipe = {"name": "both", "stages": [{**SPARSIFY, **sparsify}, QUANTIZE]}
    (folder / "both.yaml").write_text(yaml.safe_dump(recipe))
    return CompressRequest(
        folder / "model.pt2",
        str(folder / "data.npz"),
        target="jetson",
        recipe=str(folder / "both.yaml"),
        out=folder / "out",
        cache=folder / "cache",
    )


def integers(folder: Path) -> list[np.ndarray[Any, Any]]:
    graph = onnx.load(folder / "out" / "model.onnx").graph
    arrays = [numpy_helper.to_array(t) for t in graph.initializer if len(t.dims) == 2]
    return [array for array in arrays if array.dtype == np.int8]


@pytest.mark.slow
def test_zeros_are_held_also_when_the_sparse_step_comes_from_the_cache(folder: Path) -> None:
    first = compress(request(folder))
    weights = integers(folder)
    assert [w.shape for w in weights] == [(24, 16), (3, 24)]
    for weight in weights:
        assert ((weight.reshape(len(weight), -1, 4) != 0).sum(2) <= 2).all()
    in_float = torch.export.load(folder / "out" / "model.pt2").parameters()
    for parameter in (p for p in in_float if p.ndim == 2):
        assert ((parameter.reshape(len(parameter), -1, 4) != 0).sum(2) <= 2).all()
    (last,) = (p for p in (folder / "cache").iterdir() if is_last(p))
    again = [w.copy() for w in weights]
    for file in last.iterdir():
        file.unlink()
    last.rmdir()

    progress = Notes()
    second = compress(request(folder), progress)

    assert "sparsify: already done, taken from the cache" in progress.notes
    assert all(np.array_equal(a, b) for a, b in zip(again, integers(folder), strict=True))
    for result in (first, second):
        stages = {stage["name"]: stage["details"] for stage in result.manifest["stages"]}
        held, made = stages["quantize"]["held_zeros"], stages["sparsify"]["sparsity"]
        assert held["planned"] == made["zeros"] > 0
        plans = json.loads((result.out / "build.json").read_text())["variants"]
        assert all(variant["plan"]["sparse"] for variant in plans)


def is_last(step: Path) -> bool:
    record = step / "record.json"
    return record.exists() and '"quantize"' in record.read_text()


def test_a_stage_that_is_left_out_costs_nothing_and_is_told_everywhere(folder: Path) -> None:
    given = request(folder, pattern="unstructured", sparsity=0.5, if_no_gain="skip")
    assert "left out (if_no_gain)" in plan(given).steps[1].description

    progress = Notes()
    result = compress(given, progress)

    original, skipped, quantized = result.manifest["stages"]
    assert skipped["seconds"] == 0.0 and skipped["latency"] is None
    for key in ("accuracy", "model_bytes", "compressed_bytes"):
        assert skipped[key] == original[key]
    assert skipped["details"]["sparsity"]["skipped"]
    assert "held_zeros" not in quantized["details"]
    assert any("sparsify: left out" in note for note in progress.notes)
    assert any("sparsify stage was left out" in note for note in result.manifest["notes"])
    assert "if_no_gain: skip" in (folder / "out" / "report.html").read_text("utf-8")
