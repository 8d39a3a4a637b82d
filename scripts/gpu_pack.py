"""Make the folder that ``scripts/gpu-check`` runs on a GPU: bundles, samples, reference outputs.

    python scripts/gpu_pack.py FOLDER [--checkpoint FILE --arch FILE:FACTORY --data NPZ
                                       --mean A,B,C --std A,B,C]

Needs no GPU and no network, only ``edgekd[compress]``. Packed are a ResNet-18 for images of 224x224
with random weights, to time, and the demo's network, trained here, to compare answers; with
``--checkpoint`` also a network of yours. Each becomes a bundle in INT8 and one in INT8 with 2:4
zeros, by post-training methods alone, beside the float model. TensorRT 8.5 and newer read all of
them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "cli"), str(ROOT / "hardware")]

from edgekd_cli.output import show_line  # noqa: E402

from edgekd.demo import make_demo  # noqa: E402
from edgekd.engine.plan import PLAN_NAME, BuildPlan  # noqa: E402
from edgekd.evaluate import open_for  # noqa: E402
from edgekd.export.half import OLDEST_OPSET, to_half  # noqa: E402
from edgekd.job import CompressRequest  # noqa: E402
from edgekd.pipeline import compress  # noqa: E402
from edgekd.progress import Silent  # noqa: E402
from edgekd.runtime import load  # noqa: E402
from edgekd.runtime.bundle import read_manifest  # noqa: E402
from edgekd.runtime.engine_manifest import ShapeRange  # noqa: E402

TARGET = "jetson-orin-nano"  # the profile whose graphs TensorRT 8.5 to 11 read
INT8 = "{stage: quantize, calibration: {samples: 64, method: minmax}, distill: null}"
SPARSE = "{stage: sparsify, pattern: '2:4', method: magnitude, distill: null}"
RECIPES = {"int8": [INT8], "sparse24-int8": [SPARSE, INT8]}
MOST = 64  # samples in a batch


@dataclass(frozen=True)
class Source:
    """A network to pack: what ``edgekd compress`` is given, and what torch.compile opens."""

    name: str
    model: Path
    data: Path
    arch: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    in_torch: str | None = None


def main() -> None:
    """Write the folder; it appears when all of it is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--arch")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--mean", type=_numbers)
    parser.add_argument("--std", type=_numbers)
    options = parser.parse_args()
    if options.folder.exists():
        parser.error(f"{options.folder} exists; remove it or name another folder")
    with tempfile.TemporaryDirectory() as temporary:
        work, ready = Path(temporary), options.folder.with_name(f".{options.folder.name}.part")
        shutil.rmtree(ready, ignore_errors=True)
        ready.mkdir(parents=True)
        sources = [_resnet(work), _digits(work)]
        if options.checkpoint:
            own = options.checkpoint
            sources.append(
                Source(own.stem, own, options.data, options.arch, options.mean, options.std)
            )
        models = [_pack(source, ready, work) for source in sources]
        (ready / "gpu.json").write_text(json.dumps({"models": models}, indent=2), "utf-8")
        ready.rename(options.folder)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    names = ", ".join(source.name for source in sources)
    show_line(f"{options.folder}: {names}, {size / 1e6:.0f} MB")


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def _resnet(work: Path) -> Source:
    """Return ResNet-18 with its data: noise, since only time is asked of it."""
    import torch

    from benchmarks.networks.resnet import resnet18

    torch.save(resnet18().state_dict(), work / "resnet18.pt")
    images = np.random.default_rng(0).integers(0, 256, (112, 224, 224, 3), np.uint8)
    np.savez(work / "noise.npz", x_train=images[:96], x_val=images[96:])
    arch = f"{ROOT / 'benchmarks/networks/resnet.py'}:resnet18"
    inside = "benchmarks/networks/resnet.py:resnet18"
    return Source("resnet18-224", work / "resnet18.pt", work / "noise.npz", arch, in_torch=inside)


def _digits(work: Path) -> Source:
    demo = make_demo(work / "demo", Silent())
    return Source("digits", demo.model, demo.data)


def _pack(source: Source, folder: Path, work: Path) -> dict[str, Any]:
    """Write the bundles of a network and return its entry of ``gpu.json``."""
    for name, stages in RECIPES.items():
        recipe = work / f"{name}.yaml"
        lines = [f"name: {name}", "stages:", *(f"  - {stage}" for stage in stages)]
        recipe.write_text("\n".join(lines), "utf-8")
        request = CompressRequest(
            model=source.model,
            data=str(source.data),
            arch=source.arch,
            mean=source.mean,
            std=source.std,
            target=TARGET,
            recipe=str(recipe),
            out=folder / f"{source.name}-{name}",
            cache=work / "cache",
        )
        compress(request)
        show_line(f"packed {source.name}-{name}")
    bundle = folder / f"{source.name}-int8"
    manifest = read_manifest(bundle)
    (inputs,) = manifest.spec.inputs
    shape = [size for size in inputs.shape[1:] if size is not None]
    _write_float(bundle / "baseline.onnx", folder / f"{source.name}-float", inputs.name, shape)
    entry: dict[str, Any] = {
        "name": source.name,
        "inputs": {inputs.name: shape},
        "contenders": _contenders(source),
    }
    if manifest.task == "classification":
        dataset = open_for(manifest, str(source.data))
        every = np.arange(len(dataset.validation))
        samples = dataset.inputs(dataset.validation, every)[0][inputs.name]
        entry["samples"] = f"{source.name}.npz"
        np.savez(folder / entry["samples"], **{inputs.name: samples})
        for contender in entry["contenders"]:
            contender["reference"] = _reference(folder, contender.get("folder"), bundle, samples)
    return entry


def _write_float(baseline: Path, folder: Path, name: str, shape: list[int]) -> None:
    """Write the float model for a weakly typed build, and in FP16 for a strongly typed one."""
    folder.mkdir()
    model = baseline.read_bytes()
    (folder / "model.onnx").write_bytes(model)
    newer = version_converter.convert_version(onnx.load_from_string(model), OLDEST_OPSET)
    (folder / "model_fp16.onnx").write_bytes(to_half(newer.SerializeToString()).model)
    sizes = ShapeRange((1, *shape), (1, *shape), (MOST, *shape))
    weak = BuildPlan("model.onnx", {name: sizes}, float16=True)
    variants = [
        {"from": "8.5", "below": "10", "plan": weak.to_dict()},
        {"from": "10", "below": None, "plan": replace(weak, onnx="model_fp16.onnx").to_dict()},
    ]
    (folder / PLAN_NAME).write_text(json.dumps({"variants": variants}), "utf-8")


def _reference(folder: Path, own: str | None, bundle: Path, samples: Any) -> str:
    """Write what ONNX Runtime's CPU kernels answer for a contender's model; return the file."""
    quantized = own is not None and (folder / own / "manifest.json").is_file()
    path = folder / f"{own if quantized else f'{bundle.name}-baseline'}.npz"
    role = "compressed" if quantized else "baseline"
    with load(folder / own if quantized and own else bundle, role, runtime="onnxruntime") as model:
        np.savez(path, output=model(samples))
    return path.name


def _contenders(source: Source) -> list[dict[str, Any]]:
    engines = {
        "TensorRT FP16": "float",
        "TensorRT INT8": "int8",
        "TensorRT INT8, 2:4": "sparse24-int8",
    }
    found: list[dict[str, Any]] = [
        {"name": name, "kind": "engine", "folder": f"{source.name}-{kind}"}
        for name, kind in engines.items()
    ]
    original = f"{source.name}-float/model.onnx"
    found.append({"name": "ONNX Runtime CUDA FP32", "kind": "onnxruntime", "onnx": original})
    if source.in_torch:
        found.append({"name": "torch.compile FP16", "kind": "torch", "arch": source.in_torch})
    return found


if __name__ == "__main__":
    main()
