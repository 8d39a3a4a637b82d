"""A request, read and checked: what the target decides before any work starts."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Mlp, build

from edgekd.errors import ProfileError, RecipeError
from edgekd.job import CompressRequest, draft, prepare
from edgekd.model.save import save_model

BOARD = "name: board\ntitle: A board\nupdated: 2026-01-02\nruntime: onnxruntime\nopset: 20\n"


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> CompressRequest:
    folder = tmp_path_factory.mktemp("job")
    x = np.random.default_rng(0).normal(size=(80, 16)).astype(np.float32)
    save_model(build(Mlp), torch.from_numpy(x[:2]), folder / "model.pt2")
    np.savez(folder / "data.npz", x=x)
    return CompressRequest(folder / "model.pt2", str(folder / "data.npz"), cache=folder / "cache")


def board(folder: Path, name: str, more: str) -> str:
    (folder / f"{name}.yaml").write_text(BOARD + more)
    return str(folder / f"{name}.yaml")


def test_a_step_timed_here_is_not_taken_for_a_target_that_is_not(
    request_: CompressRequest, tmp_path: Path
) -> None:
    here = board(tmp_path, "here", f"architecture: {platform.machine()}\n")
    same = board(tmp_path, "same", "memory_gib: 8.0\n")
    other = board(tmp_path, "other", "architecture: x86_64\ncpu_flags: [no_such_instructions]\n")
    keys = [prepare(replace(request_, target=target)).key(1) for target in (here, same, other)]
    assert keys[0] == keys[1] != keys[2]


def test_what_a_device_has_decides_the_default_recipe(request_: CompressRequest) -> None:
    def recipe(target: str, **options: object) -> str:
        return draft(replace(request_, target=target, **options)).recipe.name  # type: ignore[arg-type]

    assert recipe("jetson-nano") == "pruned-distilled"
    assert recipe("jetson-nano", speedup=1.5) == "pruned-distilled"
    assert recipe("jetson", speedup=1.5) == "pruned-int8-distilled"
    with pytest.raises(RecipeError, match=r"give --recipe pruned-distilled, which .* needs --data"):
        draft(replace(request_, target="jetson-nano", recipe="int8-distilled"))


def test_the_target_is_named_before_any_work(request_: CompressRequest) -> None:
    (line,) = draft(replace(request_, target="jetson")).notes()
    assert line == "target jetson: jetson-orin-nano, NVIDIA Jetson Orin Nano 8GB with TensorRT"
    line, doubt = draft(replace(request_, target="pi4")).notes()
    assert line.startswith("target pi4: raspberry-pi-4, ") and "no instructions for INT8" in doubt


def test_no_runtime_can_be_asked_for_where_nothing_is_timed(request_: CompressRequest) -> None:
    with pytest.raises(ProfileError, match="nothing can be timed here for intel-npu, since "):
        draft(replace(request_, target="intel-npu", runtime="openvino"))


def test_a_step_belongs_to_its_number_of_processes(
    request_: CompressRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums are added up in another order there; the original, which nobody trains, is the same."""
    job = prepare(request_)
    original, first = job.key(0), job.key(1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert job.key(0) == original and job.key(1) != first
