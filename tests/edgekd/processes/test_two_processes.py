"""Two processes of torchrun against one: the same global batches, the same result."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shared_trainings
import torch
from networks import build
from torch import Tensor

from edgekd.model.save import save_model
from edgekd.runtime.bundle import read_manifest_data

TESTS = Path(shared_trainings.__file__).parent
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # torchrun gives each of its processes one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        found = shared_trainings.run_all(tmp_path_factory.mktemp("alone"))
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    return found


@pytest.fixture(scope="module")
def two(run_python: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which each process has written what it found, under its rank."""
    return launch(run_python, tmp_path_factory.mktemp("two"), **ON_CPU)


def launch(run_python: Any, folder: Path, **settings: str) -> Path:
    script = str(TESTS / "shared_trainings.py")
    done: subprocess.CompletedProcess[str] = run_python(
        *LAUNCH, script, str(folder), PYTHONPATH=str(TESTS), **settings
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_train_to_what_one_does(
    alone: dict[str, Tensor], two: Path, rank: int
) -> None:
    """Losses of samples and of batches, LayerNorm and BatchNorm, a part of a batch or none."""
    found = torch.load(two / str(rank) / "found.pt")
    assert found.keys() == alone.keys()
    for name, tensor in alone.items():
        largest = float(tensor.abs().max())
        assert torch.allclose(found[name], tensor, rtol=0, atol=3e-6 * largest), name


def test_all_processes_end_with_the_same_weights(two: Path) -> None:
    first, second = (torch.load(two / rank / "found.pt") for rank in ("0", "1"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.gpu
def test_two_gpus_train_to_what_a_processor_does(
    run_python: Any, alone: dict[str, Tensor], tmp_path: Path
) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two NVIDIA GPUs that torch can use")
    found = torch.load(launch(run_python, tmp_path) / "0" / "found.pt", map_location="cpu")
    for name, tensor in alone.items():
        assert torch.allclose(found[name], tensor, atol=1e-2 * float(tensor.abs().max())), name


def test_only_the_first_process_keeps_checkpoints(two: Path) -> None:
    """The other one goes on from the first one's, though its own disk has none."""
    assert list((two / "0").rglob("*.checkpoint"))
    assert not (two / "1" / "cache").exists()


def test_one_process_decides_and_all_know(two: Path) -> None:
    for rank in (0, 1):
        found = torch.load(two / str(rank) / "decided.pt")
        assert found["value"] == 42
        assert found["calls"] == (["once"] if rank == 0 else [])
        assert found["DataError"] == "DataError: no such file"
        assert found["UnportableError"].endswith(": 1 and 2")
        assert found["parts"] == [[2, 3][rank], 1]  # of 5 samples, and of 1
        assert "train in one process" in found["no rows"]
    first, second = (torch.load(two / rank / "decided.pt")["random"] for rank in ("0", "1"))
    assert torch.equal(first, second)


RECIPE = """
name: tiny
stages:
  - stage: distill
    epochs: 3
    batch_size: 16
    losses: [{loss: kl}, {loss: squarehead}]
  - stage: quantize
    distill: {epochs: 2, batch_size: 16}
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("job")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 3, 8, 8)).astype(np.float32)
    net = build(shared_trainings.Images)
    save_model(net, torch.from_numpy(x[:2]), folder / "model.pt2")
    with torch.no_grad():
        labels = net.eval()(torch.from_numpy(x)).argmax(1).numpy()
    np.savez(folder / "data.npz", x=x, y=labels)
    (folder / "recipe.yaml").write_text(RECIPE, "utf-8")
    files = ["--data", str(folder / "data.npz"), "--recipe", str(folder / "recipe.yaml")]
    return ["edgekd_cli", "compress", str(folder / "model.pt2"), *files]


@pytest.mark.slow
def test_compress_under_torchrun(run_python: Any, job: list[str], tmp_path: Path) -> None:
    found = []
    for start, name in (((), "one"), (LAUNCH, "two")):
        places = ["--out", str(tmp_path / name), "--cache", str(tmp_path / "cache" / name)]
        done = run_python(*start, "-m", *job, *places, **ON_CPU)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("bundle: ") == 1
        assert done.stderr.count("distill: training ...") == 1
        found.append(read_manifest_data(tmp_path / name))
        assert {path.name for path in tmp_path.iterdir()} - {"cache"} <= {"one", "two"}
        assert not [
            *(tmp_path / "cache" / name).glob(".*"),
            *(tmp_path / "cache").rglob("*.partial"),
        ]
    one, two = ([step["details"] for step in manifest["stages"][1:]] for manifest in found)
    for mine, theirs in zip(one, two, strict=True):
        assert [mine["processes"], theirs["processes"]] == [1, 2]
        for name in ("train_loss", "held_out_loss"):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3)
    again = run_python(*LAUNCH, "-m", *job, *places, **ON_CPU)
    assert again.stderr.count("already done, taken from the cache") == 2


@pytest.mark.slow
def test_a_mistake_is_said_once(run_python: Any, job: list[str], tmp_path: Path) -> None:
    places = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    done = run_python(*LAUNCH, "-m", *job, *places, "--target", "nonsense")
    assert done.returncode == 1  # torchrun's own, whatever its processes ended with
    assert done.stderr.count("error: ") == 1 and "exitcode  : 2" in done.stderr
    assert not [*tmp_path.iterdir()]
