"""Networks with early exits as extra outputs, behind their own output, and ways to run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from marks import with_slow
from networks import build, conv_bn, quantize, samples, trace
from torch import Tensor, nn
from torch.nn import functional as F

from edgekd.export.bundle import write_bundle
from edgekd.export.onnx import export_onnx
from edgekd.export.segments import ExitOutput, Segment, split, without_exits
from edgekd.runtime.options import session_options
from edgekd.spec import ModelSpec

EXITS = ("output_1", "output_2")
OWN = ("output_0",)


class Residual(nn.Module):
    """A residual block of one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = conv_bn(width, width), conv_bn(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.b(F.relu(self.a(x))))


class Cnn(nn.Module):
    """Three residual blocks; a convolutional and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = conv_bn(3, 8), conv_bn(8, 8)
        self.blocks = nn.ModuleList(Residual(8) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(8, 5) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = [F.relu(self.stem(x))]
        for block in self.blocks:
            found.append(block(found[-1]))
        tensors = found[3], F.relu(self.conv(found[1])), found[2]
        return tuple(head(x.mean((2, 3))) for head, x in zip(self.heads, tensors, strict=True))


class Layer(nn.Module):
    """Attention over a mask and a two-layer perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        y = (q @ k.transpose(-1, -2) / 2 + bias).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Encoder(nn.Module):
    """Ids and a mask, both integers, through three layers; every head pools what the mask keeps."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(20, width), nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.randn(6, width))
        self.layers = nn.ModuleList(Layer(width, 2) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(width, 5) for _ in range(3))

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        kept = mask.float()
        bias = (kept[:, None, None, :] - 1.0) * 100.0
        found = [self.table(ids) + self.positions]
        for layer in self.layers:
            found.append(layer(found[-1], bias))
        tensors = self.norm(found[3]), found[1], found[2]
        pooled = [(x * kept[:, :, None]).sum(1) / kept.sum(1, keepdim=True) for x in tensors]
        return tuple(head(x) for head, x in zip(self.heads, pooled, strict=True))


def images(count: int, seed: int = 0) -> tuple[Tensor, ...]:
    return (samples(count, 3, 12, 12, seed=seed),)


def sentences(count: int, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (count, 1), generator=generator)
    mask = (torch.arange(6)[None] < lengths).long()
    return torch.randint(0, 20, (count, 6), generator=generator), mask


NETWORKS: dict[str, tuple[Any, Any]] = {"cnn": (Cnn, images), "encoder": (Encoder, sentences)}
KINDS = ("float", "onnxruntime", "tensorrt")
QUICK = {"cnn": "onnxruntime", "encoder": "float"}
# Every network with every kind, for ``parametrize``, the others slow.
CASES = with_slow(
    [(name, kind) for name in NETWORKS for kind in KINDS],
    [(name, kind) for name, quick in QUICK.items() for kind in KINDS if kind != quick],
)


@cache
def exported(name: str, kind: str, opset: int = 17) -> tuple[bytes, ModelSpec]:
    """Return a network as ONNX, in float or quantized for a runtime, and its whole signature."""
    make, inputs = NETWORKS[name]
    net, example = build(make), inputs(16)
    for head in net.heads:  # logits far enough apart that confidences differ
        head.weight.data *= 12
    if kind == "float":
        graph, spec = trace(net, *example)
        return export_onnx(graph, tuple(x[:2] for x in example), spec, opset=opset), spec
    found = quantize(net, *example, runtime=kind)
    return found.onnx(opset), found.spec


def inputs_of(name: str, count: int, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Return samples by input name."""
    spec = exported(name, "float")[1]
    arrays = NETWORKS[name][1](count, seed)
    return {t.name: x.numpy() for t, x in zip(spec.inputs, arrays, strict=True)}


def open_session(
    model: bytes, kind: str = "onnxruntime", *, as_written: bool = False
) -> onnxruntime.InferenceSession:
    """Open a model as the runtime does that was written for ``kind``."""
    options = session_options("tensorrt" if kind == "tensorrt" else "onnxruntime")
    options.intra_op_num_threads = 1
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: bytes, feed: dict[str, Any], *, as_written: bool = False) -> dict[str, Any]:
    """Return every output by name; what the model does not take is left out of the feed."""
    session = open_session(model, as_written=as_written)
    taken = {value.name: feed[value.name] for value in session.get_inputs() if value.name in feed}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, taken), strict=True))


def own_spec(spec: ModelSpec) -> ModelSpec:
    """Return the signature without the exits."""
    return replace(spec, outputs=tuple(t for t in spec.outputs if t.name in OWN))


@cache
def segments_of(name: str, kind: str, *exits: str) -> list[Segment]:
    """Return a network cut behind ``exits`` (all by default), with the default confidence."""
    return split(exported(name, kind)[0], OWN, [ExitOutput(e) for e in exits or EXITS])


def write_cascade(
    out: Path, name: str, kind: str, points: dict[str, list[float | None]], **cascade: Any
) -> Path:
    """Write a bundle by hand whose default is the first of ``points``."""
    model, spec = exported(name, kind)
    segments = segments_of(name, kind)
    files = {f"segment_{i}.onnx": segment.model for i, segment in enumerate(segments)}
    entries = [
        {
            "file": file,
            "link": segment.link and asdict(segment.link),
            "latency_ms": {"p50": 0.5, "p99": 1.0},
        }
        for file, segment in zip(files, segments, strict=True)
    ]
    exits = [{"name": e, "after": "block", "head": "linear", "temperature": 1.0} for e in EXITS]
    manifest = {
        "format_version": 1,
        "name": name,
        "target": {"name": "cpu", "runtime": "tensorrt" if kind == "tensorrt" else "onnxruntime"},
        "models": {"compressed": "model.onnx"},
        "spec": own_spec(spec).to_dict(),
        "preprocessing": {},
        "classes": None,
        "task": "classification",
        "cascade": {
            "confidence": "probability",
            "exits": exits,
            "segments": entries,
            "operating_points": {key: {"thresholds": value} for key, value in points.items()},
            "default": next(iter(points)),
            **cascade,
        },
    }
    files["model.onnx"] = without_exits(model, OWN)
    return write_bundle(out, files, manifest, overwrite=True)


@cache
def sessions_of(name: str, kind: str) -> list[onnxruntime.InferenceSession]:
    return [open_session(segment.model, kind) for segment in segments_of(name, kind)]


def all_exits(name: str, kind: str, feed: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Return (answer, confidence) of every segment for all samples; the last is sure."""
    values, found = dict(feed), []
    for session in sessions_of(name, kind):
        names = [value.name for value in session.get_outputs()]
        taken = {value.name: values[value.name] for value in session.get_inputs()}
        values.update(zip(names, session.run(None, taken), strict=True))
        answer = values[names[0]]
        sure = np.full(len(answer), np.inf, np.float32)
        found.append((answer, values["confidence"] if "confidence" in names else sure))
    return found


def expected(
    name: str, kind: str, thresholds: Sequence[float | None], feed: dict[str, Any]
) -> tuple[Any, Any]:
    """Return answers and exits of samples that leave by ``thresholds``, from all exits' logits."""
    found = all_exits(name, kind, feed)
    levels = [np.inf if t is None else t for t in thresholds]
    passes = [sure > np.float32(level) for (_, sure), level in zip(found, levels, strict=False)]
    exits = np.argmax(np.stack([*passes, np.ones_like(passes[0])]), axis=0)
    answers = np.stack([answer for answer, _ in found])
    return answers[exits, np.arange(len(exits))], exits


def middle_thresholds(name: str, kind: str, feed: dict[str, Any]) -> list[float]:
    """Return thresholds by which some samples leave at each exit and some do not."""
    return [float(np.quantile(sure, 0.6)) for _, sure in all_exits(name, kind, feed)[:-1]]
