"""Whole runs that prune: three stages from one recipe, and files that need no edgekd."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import numpy_helper
from torch import Tensor, nn

from edgekd.job import CompressRequest
from edgekd.model.save import save_model
from edgekd.pipeline import CompressResult, compress, plan

TRAINING = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "augment": "none"}
PRUNE = {"stage": "prune", "macs": 0.5, "steps": 2, "multiple": 4, "samples": 32}
SPARSIFY = {"stage": "sparsify", "pattern": "2:4", "keep_ends": False, "distill": TRAINING}
QUANTIZE = {"stage": "quantize", "calibration": {"method": "minmax"}, "distill": TRAINING}


class Net(nn.Module):
    """A residual block of linear layers between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(16, 24), nn.Linear(24, 32), nn.Linear(32, 24)
        self.hidden, self.head = nn.Linear(24, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.b(torch.relu(self.a(x)))
        return self.head(torch.relu(self.hidden(x)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 16)).astype(np.float32)
    torch.manual_seed(0)
    save_model(Net().eval(), torch.from_numpy(x[:2]), folder / "model.pt2")
    np.savez(folder / "data.npz", x=x, y=generator.integers(0, 3, len(x)))
    return folder


def request(folder: Path, *stages: dict[str, Any], **given: Any) -> CompressRequest:
    (folder / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "stages": list(stages)}))
    return CompressRequest(
        folder / "model.pt2",
        str(folder / "data.npz"),
        recipe=str(folder / "mine.yaml"),
        out=folder / "out",
        cache=folder / "cache",
        **given,
    )


def float_step(result: CompressResult, folder: Path, name: str) -> Path:
    """Return the folder of a finished step in the cache."""
    steps = [p for p in (folder / "cache").iterdir() if (p / "record.json").exists()]
    (found,) = (p for p in steps if json.loads((p / "record.json").read_text())["name"] == name)
    return found


@pytest.fixture(scope="module")
def result(folder: Path) -> CompressResult:
    stages = ({**PRUNE, "distill": TRAINING}, SPARSIFY, QUANTIZE)
    return compress(request(folder, *stages, target="jetson"))


def test_prune_sparsify_and_quantize_run_from_one_recipe(
    result: CompressResult, folder: Path
) -> None:
    stages = {stage["name"]: stage for stage in result.manifest["stages"]}
    assert list(stages) == ["original", "prune", "sparsify", "quantize"]
    pruned = stages["prune"]["details"]["prune"]
    assert pruned["macs"][1] <= 0.5 * pruned["macs"][0]
    assert stages["prune"]["model_bytes"] < stages["original"]["model_bytes"]
    made = stages["sparsify"]["details"]["sparsity"]
    held = stages["quantize"]["details"]["held_zeros"]
    assert held["planned"] == made["zeros"] > 0

    graph = onnx.load(folder / "out" / "model.onnx").graph
    arrays = [numpy_helper.to_array(t) for t in graph.initializer if len(t.dims) == 2]
    weights = [w for w in arrays if w.dtype == np.int8]
    left = {group["name"]: group["after"] for group in pruned["groups"]}
    stem, inner, hidden = left["stem"], left["a"], left["hidden"]
    shapes = [(stem, 16), (inner, stem), (stem, inner), (hidden, stem), (3, hidden)]
    assert [w.shape for w in weights] == [shape for shape in shapes if 0 not in shape]
    assert min(inner, hidden) < 32
    for weight in weights:
        assert ((weight.reshape(len(weight), -1, 4) != 0).sum(2) <= 2).all(), weight.shape
    assert sum(int((w == 0).sum()) for w in weights) == held["found"] >= made["zeros"]
    assert not list((folder / "cache").glob("*.partial"))


def test_a_finished_step_is_taken_from_the_cache(result: CompressResult, folder: Path) -> None:
    stages = ({**PRUNE, "distill": TRAINING}, SPARSIFY, QUANTIZE)
    planned = plan(request(folder, *stages, target="jetson"))
    assert [step.cached for step in planned.steps] == [True] * 4
    assert "until 50% of the multiplications are left" in planned.steps[1].description


PLAIN = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "edgekd":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
import numpy as np, torch
try:
    import edgekd
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("edgekd is here")
module = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    np.save(sys.argv[3], module(torch.from_numpy(np.load(sys.argv[2])["x"])).numpy())
"""


def test_a_pruned_step_is_data_that_plain_torch_loads(
    result: CompressResult, folder: Path, tmp_path: Path
) -> None:
    step = float_step(result, folder, "prune")
    args = [str(step / "model.pt2"), str(folder / "data.npz"), str(tmp_path / "out.npy")]
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    plain = np.load(tmp_path / "out.npy")
    session = onnx_outputs(step / "model.onnx", np.load(folder / "data.npz")["x"])
    assert plain.shape == (80, 3)
    np.testing.assert_allclose(plain, session, atol=1e-5)


def onnx_outputs(path: Path, x: np.ndarray[Any, Any]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def test_a_predicted_speed_is_marked_in_the_manifest_and_not_checked(folder: Path) -> None:
    stage = {**PRUNE, "macs": None, "speedup": 1.0001, "steps": 1, "distill": None}
    given = request(folder, stage, target="jetson")
    assert "as fast in float (predicted)" in plan(given).steps[1].description
    found = compress(given)
    assert found.manifest["stages"][-1]["details"]["prune"]["source"] == "predicted"
    assert any("is predicted by the target's latency" in n for n in found.manifest["notes"])
    assert not any("as fast measured" in message for message in found.messages)
