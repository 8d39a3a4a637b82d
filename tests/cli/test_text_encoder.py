"""A model with two inputs and no labels, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from networks import build
from safetensors.torch import save_file

from benchmarks.networks.encoder import TextEncoder
from edgekd.runtime import load

ROOT = Path(__file__).parents[2]
ARCH = """
from benchmarks.networks.encoder import TextEncoder
def tiny():
    return TextEncoder(width=32, depth=1, heads=2, hidden=64, vocabulary=100, tokens=16)
"""
RECIPE = {
    "name": "short",
    "stages": [
        {
            "stage": "quantize",
            "calibration": {"samples": 32, "method": "minmax"},
            "distill": {"epochs": 1},
        }
    ],
}


@pytest.mark.slow
def test_token_ids_and_mask_give_a_verified_embedding(run_cli, tmp_path: Path) -> None:
    sizes = {"width": 32, "depth": 1, "heads": 2, "hidden": 64, "vocabulary": 100, "tokens": 16}
    net = build(lambda: TextEncoder(**sizes))
    save_file(net.state_dict(), tmp_path / "tiny.safetensors")
    (tmp_path / "arch.py").write_text(ARCH)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    draw = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 160), ("val", 40)):
        arrays[f"x_{split}.ids"] = draw.integers(0, 100, (count, 16))
        lengths = draw.integers(3, 17, (count, 1))
        arrays[f"x_{split}.mask"] = (np.arange(16) < lengths).astype(np.int64)
    np.savez(tmp_path / "tokens.npz", **arrays)
    done = run_cli(
        *("compress", str(tmp_path / "tiny.safetensors")),
        *("--arch", f"{tmp_path / 'arch.py'}:tiny", "--data", str(tmp_path / "tokens.npz")),
        *("--recipe", str(tmp_path / "recipe.yaml"), "--cache", str(tmp_path / "cache")),
        *("--out", str(tmp_path / "bundle"), "--json", "--runtime", "onnxruntime"),
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert [tensor["name"] for tensor in manifest["spec"]["inputs"]] == ["ids", "mask"]
    assert manifest["stages"][-1]["metric"] == "cosine"
    assert manifest["stages"][-1]["accuracy"] > 0.99
    assert {row["runtime"] for row in manifest["candidates"]["rows"]} == {"onnxruntime"}
    model = load(tmp_path / "bundle")
    feed = {name: arrays[f"x_val.{name}"][:3] for name in ("ids", "mask")}
    assert np.asarray(model(**feed)).shape == (3, 32)
