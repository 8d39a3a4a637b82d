"""Predicted against measured latency: python -m benchmarks.predict --calibration FILE

Networks that are not in the calibration grid, exported from torch with random weights, in float
and with ONNX Runtime's own static quantizer. Each is predicted from the calibration and measured
whole, called in a loop (a duet with the calibration's reference model, each timed call after an
untimed one of the same model). Since the reference model was timed beside the grid too, the second
column of errors leaves out how fast the machine was in either hour. The networks of
``benchmarks/networks/unseen.py`` were written when the predictor was finished.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from benchmarks.networks.encoder import TextEncoder
from benchmarks.networks.unseen import UNSEEN
from benchmarks.networks.zoo import ZOO
from edgekd.bench import Protocol, measure
from edgekd.bench.runner import run_worker
from edgekd.device import load_profile
from edgekd.predict.calibrate import reference_model
from edgekd.predict.correct import Correction
from edgekd.predict.predict import calibration_path, predict
from edgekd.predict.table import CalibrationTable

WITHOUT_INT8 = ("ResNet-18, 224 px", "Autoencoder, 640")
TOKENS = 48
TIMED_MS = 1500.0  # of one network in one process


def main() -> None:
    """Predict, measure, compare."""
    options = arguments()
    profile = load_profile(options.target)
    path = options.calibration or calibration_path(options.target, profile)
    table = CalibrationTable.read(path)
    print(f"{path}: {len(table.networks)} networks, {table.machine}, {table.date}")
    print("predicted ms, measured ms, error, error in units of the reference model, in the band")
    correction = Correction(table)
    raw, relative, inside, unseen = [], [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        reference = Path(temporary) / "reference.onnx"
        reference.write_bytes(reference_model())
        for name, file in networks(folder, options.only):
            shapes = fixed_shapes(file)
            found = predict(file, profile, correction, shapes=shapes)
            measured, beside = timed(file, reference, options, found.total_us / 1e3)
            error = found.total_us / 1e3 / measured - 1
            drift = beside / (table.reference_us / 1e3)
            raw.append(error)
            if name.removesuffix(", INT8") in UNSEEN:
                unseen.append(error)
            relative.append((1 + error) * drift - 1)
            inside.append(found.low_us <= measured * 1e3 <= found.high_us)
            print(
                f"{name:32} {found.total_us / 1e3:9.3f} {measured:9.3f} {error:+8.1%} "
                f"{relative[-1]:+8.1%}  {'yes' if inside[-1] else 'no'}",
                flush=True,
            )
    titles = {"as measured": raw, "by the reference": relative, "as measured, unseen": unseen}
    for title, errors in titles.items():
        if not errors:
            continue
        size = np.abs(errors)
        print(
            f"{title}: {len(size)} networks, median {np.median(size):.1%}, worst {size.max():.1%}"
        )
    print(f"within the stated band: {sum(inside)} of {len(inside)}")


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--calibration", type=Path, help="default: the one stored for the target")
    parser.add_argument("--folder", type=Path, help="folder that keeps the exported networks")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument(
        "--clock",
        choices=("wall", "processor"),
        default="wall",
        help="processor: the thread's own time, for a machine that others use too",
    )
    return parser.parse_args()


def networks(folder: Path, only: str) -> Iterator[tuple[str, Path]]:
    """Yield name and file of every network, exported into ``folder`` unless it is there."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    entries = [(name, make, (1, *shape)) for name, (make, shape) in (ZOO | UNSEEN).items()]
    for name, make, shape in entries:
        if only not in name:
            continue
        path = folder / f"{name}.onnx".replace(" ", "-").replace(",", "")
        if not path.is_file():
            export(make(), (torch.randn(shape),), path)
        yield name, path
        if name not in WITHOUT_INT8:
            integers = path.with_suffix(".int8.onnx")
            if not integers.is_file():
                quantize(path, integers, shape)
            yield f"{name}, INT8", integers
    if only in "Text encoder":
        path = folder / "encoder.onnx"
        if not path.is_file():
            model = TextEncoder(width=256, depth=4, heads=8, hidden=1024, tokens=TOKENS)
            ids = torch.zeros(1, TOKENS, dtype=torch.int64)
            export(model, (ids, torch.ones_like(ids)), path)
        yield "Text encoder, 48 tokens", path


def export(model: nn.Module, example: tuple[torch.Tensor, ...], path: Path) -> None:
    """Write ``model`` with weights that keep the size of activations."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(), example, dynamo=True, opset_version=20, verbose=False
        )
    assert program is not None
    program.save(path, external_data=False)


def quantize(path: Path, out: Path, shape: tuple[int, ...]) -> None:
    """Quantize with ONNX Runtime's own tool, on random samples."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            name = onnx.load(path).graph.input[0].name
            rng = np.random.default_rng(0)
            self.left = [{name: rng.standard_normal(shape, np.float32)} for _ in range(4)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(out),
        Samples(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


def fixed_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs, which all have one sample."""
    graph = onnx.load(file).graph
    return {
        value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in graph.input
    }


def timed(
    file: Path, reference: Path, options: argparse.Namespace, expected_ms: float
) -> tuple[float, float]:
    """Return the milliseconds of the network and of the reference model beside it."""
    rounds = int(np.clip(TIMED_MS / (2 * expected_ms + 2), 20, 300))
    if options.clock == "wall":
        models = {"network": file, "reference": reference}
        protocol = Protocol(processes=options.processes, rounds=rounds, primers=1)
        report = measure(models, baseline="reference", protocol=protocol, same_inputs=False)
        return report.models["network"].median_ms, report.models["reference"].median_ms
    found = []
    for _ in range(options.processes):
        with tempfile.TemporaryDirectory() as folder:
            model = {"path": str(file), "optimised": str(Path(folder) / "optimised.onnx")}
            job = {"models": [model], "reference": str(reference), "threads": 1}
            found.append(run_worker("edgekd.bench.network_worker", job, 600.0)["models"][0])
    network, beside = (
        float(np.median([answer[key] for answer in found])) / 1e3
        for key in ("total_us", "reference_us")
    )
    return network, beside


if __name__ == "__main__":
    main()
