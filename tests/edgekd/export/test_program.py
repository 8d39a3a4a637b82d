"""The float program in a bundle: opened without edgekd, compressed again, with nothing private."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from edgekd.job import CompressRequest
from edgekd.model.save import save_model
from edgekd.pipeline import compress
from edgekd.runtime.bundle import read_manifest, verify

# -I leaves out the folder of the script and PYTHONPATH; the finder an installed edgekd.
PLAIN_TORCH = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("edgekd", "edgekd_cli", "edgekd_hardware"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
import numpy as np
import torch

program = torch.export.load(sys.argv[1])
with np.load(sys.argv[2]) as data, torch.no_grad():
    np.save(sys.argv[3], program.module()(torch.from_numpy(data["x"])).numpy())
assert not any(name.startswith("edgekd") for name in sys.modules)
"""


def stored_step(bundle: Path, name: str) -> Path:
    """Return the folder of a finished step."""
    steps = (bundle.parent / "cache").glob("*/record.json")
    return next(p.parent for p in steps if json.loads(p.read_text())["name"] == name)


def test_the_pruned_program_opens_with_torch_alone(
    pruned_bundle: Path, tmp_path: Path, run_python: Any
) -> None:
    file, data = pruned_bundle / "model.pt2", pruned_bundle.parent / "data.npz"

    done = run_python("-I", "-c", PLAIN_TORCH, str(file), str(data), str(tmp_path / "out.npy"))

    assert done.returncode == 0, done.stderr
    with np.load(stored_step(pruned_bundle, "prune") / "outputs.npz") as evaluated:
        expected = evaluated["output_0"]  # ONNX Runtime's, of the validation samples
    found = np.load(tmp_path / "out.npy")
    distance = np.abs(found[:, None] - expected[None]).max(2).min(0)  # the nearest of all samples
    assert distance.max() < 1e-4
    assert len(expected) < len(found) == 80


def test_the_pruned_program_is_smaller_and_listed_with_its_hash(pruned_bundle: Path) -> None:
    manifest = read_manifest(pruned_bundle)

    verify(pruned_bundle, manifest)

    assert "model.pt2" in manifest.files
    assert "model.pt2" not in manifest.models.values()  # the runtime opens ONNX only
    before, after = (
        sum(p.numel() for p in torch.export.load(file).parameters())
        for file in (pruned_bundle.parent / "model.pt2", pruned_bundle / "model.pt2")
    )
    assert (before, after) == tuple(manifest.data["stages"][1]["details"]["prune"]["parameters"])
    assert after < before


def test_the_program_has_no_sample_and_no_path(pruned_bundle: Path) -> None:
    ((images,), _) = torch.export.load(pruned_bundle / "model.pt2").example_inputs

    assert images.shape[0] == 2 and (images == 1).all()
    with zipfile.ZipFile(pruned_bundle / "model.pt2") as archive:
        text = b"".join(archive.read(name) for name in archive.namelist())
    assert b"conftest.py" not in text
    with zipfile.ZipFile(stored_step(pruned_bundle, "prune") / "model.pt2") as archive:
        text = b"".join(archive.read(name) for name in archive.namelist())
    assert b"conftest.py" in text  # so that errors can name lines


@pytest.mark.slow
def test_compress_takes_the_program_again(pruned_bundle: Path, tmp_path: Path) -> None:
    prune = {"stage": "prune", "parameters": 0.8, "multiple": 1, "steps": 1, "distill": None}
    again = {"name": "again", "stages": [{**prune, "samples": 16, "on_unprunable": "skip"}]}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(again))

    result = compress(
        CompressRequest(
            pruned_bundle / "model.pt2",
            str(pruned_bundle.parent / "data.npz"),
            target="jetson",
            recipe=str(tmp_path / "again.yaml"),
            out=tmp_path / "again",
            cache=tmp_path / "cache",
        )
    )

    first = read_manifest(pruned_bundle).data["stages"][1]
    original, pruned = result.manifest["stages"]
    assert original["accuracy"] == pytest.approx(first["accuracy"])
    before, after = pruned["details"]["prune"]["parameters"]
    assert before == first["details"]["prune"]["parameters"][1]
    assert after <= 0.8 * before
    assert (tmp_path / "again" / "model.pt2").is_file()  # the last stage is no quantize stage


def test_a_bundle_that_was_only_quantized_has_no_program(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    save_model(nn.Linear(8, 3).eval(), torch.from_numpy(x[:2]), tmp_path / "model.pt2")
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(40) % 3)
    stages = [
        {"stage": "sparsify", "pattern": "3:4", "if_no_gain": "skip", "distill": None},
        {"stage": "quantize", "distill": None},
    ]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": "r", "stages": stages}))

    result = compress(
        CompressRequest(
            tmp_path / "model.pt2",
            str(tmp_path / "data.npz"),
            target="jetson",
            recipe=str(tmp_path / "r.yaml"),
            out=tmp_path / "out",
            cache=tmp_path / "cache",
        )
    )

    assert result.manifest["stages"][1]["details"]["sparsity"]["skipped"]
    assert "model.pt2" not in result.manifest["files"]
