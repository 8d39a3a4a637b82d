"""Steps for a runtime that takes every type from the graph: FP16, evaluated as FP16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from networks import Transformer, build
from onnx import TensorProto
from torch import nn

from edgekd.errors import ExportError
from edgekd.job import CompressRequest
from edgekd.model.save import save_model
from edgekd.pipeline import compress
from edgekd.progress import Silent
from edgekd.stages import checkpoint


def request(folder: Path, net: nn.Module, distill: Any = None) -> CompressRequest:
    x = np.random.default_rng(0).normal(size=(80, 6, 16)).astype(np.float32)
    save_model(net, torch.from_numpy(x[:2]), folder / "model.pt2")
    np.savez(folder / "data.npz", x=x)
    recipe = {"name": "fast", "stages": [{"stage": "quantize", "distill": distill}]}
    (folder / "fast.yaml").write_text(yaml.safe_dump(recipe))
    return CompressRequest(
        folder / "model.pt2",
        str(folder / "data.npz"),
        target="jetson-orin-nano-jetpack7",
        recipe=str(folder / "fast.yaml"),
        out=folder / "out",
        cache=folder / "cache",
    )


def types(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer}


def test_the_compressed_model_is_in_float16_and_passes_every_check(tmp_path: Path) -> None:
    result = compress(request(tmp_path, build(Transformer)))
    assert result.passed, result.messages
    assert TensorProto.FLOAT16 in types(tmp_path / "out" / "model.onnx")
    assert TensorProto.FLOAT16 not in types(tmp_path / "out" / "baseline.onnx")
    layers = {layer["name"]: layer["precision"] for layer in result.manifest["kernels"]["layers"]}
    assert layers["qkv"] == layers["head"] == "int8" and "float16" in layers.values()
    assert "build.sh" in result.manifest["notes"][0]
    assert "--stronglyTyped" in (tmp_path / "out" / "build.sh").read_text("utf-8")
    assert result.manifest["stages"][-1]["details"]["kept_float32"] == {}


def test_latency_is_measured_only_on_a_machine_like_the_target(tmp_path: Path) -> None:
    (tmp_path / "board.yaml").write_text(
        "name: board\ntitle: My board\nupdated: 2026-01-02\nruntime: onnxruntime\nopset: 20\n"
        "cpu_flags: [no_such_instructions]\n"
    )
    wanted = request(tmp_path, build(Transformer))
    result = compress(replace(wanted, target=str(tmp_path / "board.yaml")))
    assert [stage["latency"] for stage in result.manifest["stages"]] == [None, None]
    assert result.manifest["candidates"] is None and result.manifest["deployment"] is None
    assert result.manifest["notes"][0] == (
        "latency was not measured for My board: this processor lacks no_such_instructions"
    )


def test_an_overflow_in_float16_is_an_error_that_names_the_layer(tmp_path: Path) -> None:
    net = build(Transformer)
    with torch.no_grad():
        net.head.weight.mul_(2.5e5)  # type: ignore[union-attr,operator]
    with pytest.raises(ExportError, match=r"in FP16 .* the rounding of head; use a device profile"):
        compress(request(tmp_path, net))


class Stopping(Silent):
    """Ends the work behind a number of training steps; keeps the notes."""

    def __init__(self, stop: int | None = None) -> None:
        self.notes: list[str] = []
        self._left = stop

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Any]:
        def advance(count: int) -> None:
            if self._left is not None and description == "quantize: distillation":
                self._left -= count
                if self._left <= 0:
                    raise KeyboardInterrupt

        yield advance

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.slow
def test_a_stage_goes_on_with_its_training_and_removes_what_it_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    wanted = request(tmp_path, build(Transformer), {"epochs": 3, "batch_size": 16})
    with pytest.raises(KeyboardInterrupt):
        compress(wanted, Stopping(6))
    assert len(list((tmp_path / "cache").glob("*.partial/*.checkpoint"))) == 1
    progress = Stopping()
    resumed = compress(wanted, progress)
    assert "quantize: distillation: goes on where an earlier run stopped" in progress.notes
    assert not list((tmp_path / "cache").glob("*.partial"))
    plain = compress(replace(wanted, cache=tmp_path / "another", out=tmp_path / "plain"))
    results = [r.manifest["stages"][-1]["details"]["train_loss"] for r in (resumed, plain)]
    assert results[0] == results[1] and len(results[0]) == 3
    models = [(tmp_path / name / "model.onnx").read_bytes() for name in ("out", "plain")]
    assert models[0] == models[1]
