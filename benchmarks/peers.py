"""Ours against ONNX Runtime's and NNCF's post-training quantization, on the same checkpoint.

    python benchmarks/peers.py BUNDLE --data DATA.npz [--processes 12 --rounds 400]

BUNDLE is what ``edgekd compress`` wrote: its baseline.onnx is the FP32 model that the peers
quantize, with the calibration samples that edgekd's own run used (300 of them) and otherwise
their defaults. All four models are timed in one duet: fresh processes, in each of them single
calls in random order, and the median of the paired ratios. Needs the extras compress and bench.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import measure
from edgekd.data.source import Dataset
from edgekd.evaluate import open_for
from edgekd.export.kernels import LAYERS, SUMS, read_kernels
from edgekd.metrics import Quality, compare
from edgekd.runtime.bundle import read_manifest
from edgekd.spec import ModelSpec

SAMPLES = 300


def main() -> None:
    """Quantize with every peer, then print one table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--processes", type=int, default=12)
    arguments.add_argument("--rounds", type=int, default=400)
    options = arguments.parse_args()
    manifest = read_manifest(options.bundle)
    data = open_for(manifest, options.data)
    with tempfile.TemporaryDirectory() as folder:
        models = _models(options.bundle, Path(folder), data, manifest.spec)
        protocol = Protocol(processes=options.processes, rounds=options.rounds)
        report = measure(models, baseline="FP32", protocol=protocol)
        against = measure(models, baseline="edgekd", protocol=protocol)
        reference, targets = _outputs(models["FP32"], data)
        print(
            f"{report.runtime}, batch 1, {protocol.threads} thread, {protocol.processes} processes"
        )
        print(f"x {protocol.rounds} rounds of single calls; ratios are medians of paired calls\n")
        header = f"{'model':28} {'top-1':>7} {'agree':>7} {'NFR':>6} {'ms':>7}"
        print(f"{header} {'vs FP32':>20} {'edgekd is':>20} {'int layers':>10} {'sums':>6}")
        for name, path in models.items():
            quality = compare(_outputs(path, data)[0], reference, targets)
            faster, ahead = report.models[name], against.models[name]
            lead = [_inverse(value) for value in (ahead.ratio, ahead.ratio_high, ahead.ratio_low)]
            kernels = read_kernels(path.read_bytes())
            layers, sums = kernels.count(*LAYERS), kernels.count(*SUMS)
            print(
                f"{name:28} {_quality(quality)} {faster.median_ms:7.3f}"
                f" {_ratio(faster.ratio, faster.ratio_low, faster.ratio_high)}"
                f" {_ratio(*lead)}"
                f" {f'{layers[0]}/{layers[1]}':>10} {f'{sums[0]}/{sums[1]}':>6}"
            )


def _models(bundle: Path, folder: Path, data: Dataset, spec: ModelSpec) -> dict[str, Path]:
    baseline = bundle / "baseline.onnx"
    count = min(SAMPLES, len(data.calibration))
    samples = data.inputs(data.calibration, np.arange(count))[0][spec.inputs[0].name]
    name = spec.inputs[0].name
    peers = {"FP32": baseline}
    with _quiet():
        peers["onnxruntime quantize_static"] = _static(baseline, folder / "ort.onnx", name, samples)
        peers["NNCF post-training (ONNX)"] = _nncf(baseline, folder / "nncf.onnx", name, samples)
    return {**peers, "edgekd": bundle / "model.onnx"}


def _static(baseline: Path, out: Path, name: str, samples: np.ndarray) -> Path:
    """ONNX Runtime's own quantizer: QDQ, per channel, everything else as it ships."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {name: row[None]}

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(baseline), str(prepared))
    quantize_static(
        str(prepared), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True
    )
    return out


def _nncf(baseline: Path, out: Path, name: str, samples: np.ndarray) -> Path:
    """NNCF's post-training quantization of the ONNX model, with its defaults."""
    import nncf

    dataset = nncf.Dataset([{name: row[None]} for row in samples])
    onnx.save(nncf.quantize(onnx.load(baseline), dataset, subset_size=len(samples)), out)
    return out


def _outputs(path: Path, data: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed, targets = data.inputs(data.validation, np.arange(len(data.validation)))
    return session.run(None, feed)[0], targets


def _quality(quality: Quality) -> str:
    flips = "" if quality.negative_flips is None else f"{quality.negative_flips:.4f}"
    agreement = "" if quality.agreement is None else f"{quality.agreement:.4f}"
    return f"{quality.value:7.4f} {agreement:>7} {flips:>6}"


def _ratio(ratio: float | None, low: float | None, high: float | None) -> str:
    if ratio is None:
        return f"{'1':>20}"
    return f"{f'{ratio:.3f}x ({low:.2f}-{high:.2f})':>20}"


def _inverse(ratio: float | None) -> float | None:
    return None if ratio is None else 1.0 / ratio


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


if __name__ == "__main__":
    main()
