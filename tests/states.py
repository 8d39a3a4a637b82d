"""A compression state for a small network on random data, and a student that has much to learn."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import fx, nn

from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import measure
from edgekd.export.deployed import export_for
from edgekd.graph.canonical import canonicalize
from edgekd.graph.program import clone, refresh, to_module
from edgekd.job import CompressRequest, prepare
from edgekd.model.save import save_model
from edgekd.quantize.calibrate import calibrate
from edgekd.quantize.onnxruntime import SCHEME, place
from edgekd.quantize.prepare import prepare as insert_quantizers
from edgekd.state import CompressionState


def make_state(
    net: nn.Module, shape: tuple[int, ...], folder: Path, *, classes: int = 3
) -> CompressionState:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(111, *shape)).astype(np.float32)
    save_model(net, torch.from_numpy(x[:2]), folder / "model.pt2")
    np.savez(folder / "data.npz", x=x, y=generator.integers(0, classes, len(x)))
    job = prepare(CompressRequest(folder / "model.pt2", str(folder / "data.npz")))
    model = to_module(job.loaded.program)
    return CompressionState(
        model,
        model,
        job.loaded.spec,
        job.loaded.example,
        job.data,
        job.profile,
        seed=0,
        classification=True,
    )


def inputs(state: CompressionState, count: int) -> torch.Tensor:
    """Return the first training samples of a network with one input."""
    (array,) = state.data.inputs(state.data.train, np.arange(count))[0].values()
    return torch.from_numpy(array)


def programs(state: CompressionState) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return the float program and its student, whose ranges are too small to be good."""
    original = clone(state.model)
    canonicalize(original)
    original = refresh(original, state.example)
    student, placement = clone(original), place(original)
    names = [tensor.node for tensor in placement.tensors]
    samples = [(inputs(state, 40),)]
    ranges = calibrate(original, names, lambda: samples, SCHEME, "minmax")
    ranges = {name: (0.7 * lo, 0.7 * hi) for name, (lo, hi) in ranges.items()}
    insert_quantizers(student, placement, SCHEME, ranges)
    return original, student


def original_ms(state: CompressionState) -> float:
    """Return what the model takes on this machine, from a short measurement."""
    onnx = export_for(state.profile, state.model, state.example, state.spec).onnx
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(onnx)
        protocol = Protocol(processes=1, rounds=40)
        report = measure({"model": path}, baseline="model", protocol=protocol)
    return report.models["model"].median_ms
