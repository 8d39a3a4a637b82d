"""``edgekd compress`` without --data, through the real command line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

FAST = {
    "name": "fast",
    "synthesis": {"images": 64, "batch_size": 32, "steps": 20},
    "stages": [{"stage": "quantize", "calibration": {"method": "minmax"}, "distill": None}],
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained digits network, its data and a recipe of few images."""
    from edgekd.demo import make_demo
    from edgekd.progress import Silent

    folder = tmp_path_factory.mktemp("data-free")
    make_demo(folder, Silent())
    (folder / "fast.yaml").write_text(yaml.safe_dump(FAST))
    return folder


@pytest.fixture(scope="module")
def compress(run_cli, work: Path):
    def run(*args: str, out: str = "bundle") -> subprocess.CompletedProcess[str]:
        return run_cli(
            *("compress", str(work / "model.pt"), "--recipe", str(work / "fast.yaml")),
            *("--out", str(work / out), "--cache", str(work / "cache")),
            *args,
        )

    return run


@pytest.fixture(scope="module")
def done(compress) -> subprocess.CompletedProcess[str]:
    planned = compress("--dry-run", "--mean", "0", "--std", "1")
    assert planned.returncode == 0, planned.stderr
    assert "# 1. synthesis: 64 images from the model's BatchNorm statistics" in planned.stdout
    assert "cached" not in planned.stdout
    done = compress("--mean", "0", "--std", "1")
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_it_says_plainly_that_there_was_no_data(done, work: Path) -> None:
    assert "note: no data was given: 64 images were synthesised" in done.stdout
    assert "accuracy on real images is unknown" in done.stdout
    manifest = json.loads((work / "bundle" / "manifest.json").read_text())
    assert manifest["synthesis"]["images"] == 64
    assert manifest["synthesis"]["loss"][1] < manifest["synthesis"]["loss"][0]
    assert "accuracy on real images is unknown" in manifest["notes"][0]
    assert "BatchNorm" in manifest["data"]["calibration"]["source"]
    assert manifest["accuracy"]["compressed"]["metric"] == "cosine"
    assert manifest["parity"]["passed"]
    report = (work / "bundle" / "report.html").read_text()
    assert "accuracy on real images is unknown" in report


@pytest.mark.slow
@pytest.mark.usefixtures("done")
def test_real_images_can_judge_the_bundle(run_cli, work: Path) -> None:
    judged = run_cli("eval", str(work / "bundle"), "--data", str(work / "data.npz"), "--json")
    assert judged.returncode == 0, judged.stderr
    found = json.loads(judged.stdout)
    assert found["quality"]["metric"] == "top1"
    assert found["quality"]["value"] > 0.8
    assert found["quality"]["agreement"] > 0.9
    assert not found["same_samples"]


@pytest.mark.slow
@pytest.mark.usefixtures("done")
def test_production_preprocesses_as_mean_and_std_said(work: Path) -> None:
    from edgekd.runtime import load

    pixels = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
    with load(work / "bundle") as model:
        inputs = model.preprocess(pixels)
    np.testing.assert_allclose(inputs, pixels.transpose(0, 3, 1, 2) / 255.0, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("done")
def test_the_images_are_made_once(compress) -> None:
    again = compress("--mean", "0", "--std", "1")
    assert again.returncode == 0, again.stderr
    assert "images taken from the cache" in again.stderr
    assert "quantize: already done" in again.stderr
    planned = compress("--dry-run", "--mean", "0", "--std", "1")
    assert "# 1. synthesis (cached):" in planned.stdout
    assert "# 3. quantize (cached):" in planned.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--max-drop", "1"], "--max-drop needs --data"),
        (["--max-nfr", "1"], "--max-nfr needs --data"),
        (["--mean", "0,0", "--std", "1,1"], "--mean has 2 values, but images have 1 channels"),
    ],
)
def test_what_needs_data_exits_2_in_one_line(compress, work, args, words) -> None:
    refused = compress(*args, out="never")
    assert refused.returncode == 2
    assert words in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (work / "never").exists()


def test_a_model_without_batch_norm_is_told_the_alternatives(run_cli, tmp_path: Path) -> None:
    import torch
    from networks import build
    from torch import nn

    import edgekd

    net = build(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()))
    edgekd.save_model(net, torch.zeros(2, 3, 8, 8), tmp_path / "model.pt2")
    refused = run_cli("compress", str(tmp_path / "model.pt2"), "--out", str(tmp_path / "never"))
    assert refused.returncode == 2
    assert "has no BatchNorm layer" in refused.stderr
    assert "--data with a few hundred unlabelled samples" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("done")
def test_without_a_recipe_the_one_for_no_data_is_used_and_named(run_cli, work: Path) -> None:
    planned = run_cli("compress", str(work / "model.pt"), "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "name: int8-data-free" in planned.stdout
