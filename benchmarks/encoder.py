"""A text encoder, ours against its peers: fidelity to FP32 and latency, in one table.

    python benchmarks/encoder.py BUNDLE --data TOKENS.npz [--processes 12 --rounds 100]

BUNDLE is what ``edgekd compress`` wrote from the encoder of ``benchmarks/train_encoder.py``, which
also writes TOKENS.npz. The peers quantize the bundle's baseline.onnx: ONNX Runtime's dynamic
quantization per channel, and NNCF's static path with its setting for transformers and 300 of our
calibration samples. Quality is the cosine similarity to the FP32 embedding of every validation
sample. All models are timed in one duet; ratios are medians of paired calls. Needs the extras
compress and bench.
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
from edgekd.export.kernels import INTEGER_KERNELS, read_kernels
from edgekd.runtime.bundle import read_manifest

SAMPLES = 300


def main() -> None:
    """Quantize with every peer, then print one table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--processes", type=int, default=12)
    arguments.add_argument("--rounds", type=int, default=100)
    options = arguments.parse_args()
    data = open_for(read_manifest(options.bundle), options.data)
    with tempfile.TemporaryDirectory() as folder:
        models = encoder_peers(options.bundle / "baseline.onnx", data, Path(folder))
        models["edgekd"] = options.bundle / "model.onnx"
        protocol = Protocol(processes=options.processes, rounds=options.rounds)
        report = measure(models, baseline="FP32", protocol=protocol)
        print(
            f"{report.runtime}, batch 1, {protocol.threads} thread, {protocol.processes} processes"
            f" x {protocol.rounds} rounds"
        )
        print(
            f"{'model':30} {'cosine':>8} {'least':>8} {'MB':>6} {'ms':>8} {'vs FP32':>20}  kernels"
        )
        reference = _embeddings(models["FP32"], data)
        for name, path in models.items():
            cosines = row_cosines(_embeddings(path, data), reference)
            time, kernels = report.models[name], read_kernels(path.read_bytes())
            faster = (
                "1"
                if time.ratio is None
                else f"{time.ratio:.2f}x ({time.ratio_low:.2f}-{time.ratio_high:.2f})"
            )
            integer = sum(kernels.operations.get(op, 0) for op in INTEGER_KERNELS)
            print(
                f"{name:30} {cosines.mean():8.5f} {cosines.min():8.5f}"
                f" {path.stat().st_size / 1e6:6.1f} {time.median_ms:8.3f} {faster:>20}"
                f"  {integer} integer of {sum(kernels.operations.values())}"
            )


def encoder_peers(baseline: Path, data: Dataset, folder: Path) -> dict[str, Path]:
    """Return FP32 and what the peers make of it in ``folder``, by name."""
    from onnxruntime.quantization import quantize_dynamic

    dynamic, static = folder / "dynamic.onnx", folder / "nncf.onnx"
    with _quiet():
        quantize_dynamic(baseline, dynamic, per_channel=True)
        onnx.save(_nncf(baseline, data), static)
    return {
        "FP32": baseline,
        "onnxruntime quantize_dynamic": dynamic,
        "NNCF static, transformer": static,
    }


def _nncf(baseline: Path, data: Dataset) -> onnx.ModelProto:
    import nncf

    nncf.set_log_level(logging.ERROR)
    count = min(SAMPLES, len(data.calibration))
    feed, _ = data.inputs(data.calibration, np.arange(count))
    rows = [{name: array[i : i + 1] for name, array in feed.items()} for i in range(count)]
    quantized = nncf.quantize(
        onnx.load(baseline),
        nncf.Dataset(rows),
        subset_size=count,
        model_type=nncf.ModelType.TRANSFORMER,
    )
    assert isinstance(quantized, onnx.ModelProto)
    return quantized


def _embeddings(path: Path, data: Dataset) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = []
    for rows in np.array_split(np.arange(len(data.validation)), -(-len(data.validation) // 64)):
        feed, _ = data.inputs(data.validation, rows)
        found.append(session.run(None, feed)[0])
    return np.concatenate(found)


def row_cosines(found: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the cosine similarity of every row of two ``(N, C)`` arrays, float64 ``(N,)``."""
    a, b = found.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(1) / norms)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    text = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(text):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


if __name__ == "__main__":
    main()
