"""Ours against the other post-training quantizers, on the same FP32 models: one table.

    python -m benchmarks.quantize BUNDLE DATA [BUNDLE DATA ...] [--processes 12 --rounds 400]

Every BUNDLE is what ``edgekd compress`` wrote for a CPU: its baseline.onnx is the FP32 model that
the peers quantize, with the calibration samples that edgekd's own run used (300 of them). Bundles
in a row of one FP32 model (other recipes) stand below each other. All models of a block are timed
in one duet on ONNX Runtime, batch 1, one thread: fresh processes, in each of them single calls in
random order, and the median of the paired ratios. Models are judged on the validation samples of
DATA: top-1, agreement with FP32 and negative flips where there are labels, and the cosine
similarity to FP32's output, mean and least. Needs the extras compress and bench.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmarks.peers import Rows, quantize_with_peers
from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import measure
from edgekd.bench.stats import speed_up
from edgekd.data.source import Dataset
from edgekd.evaluate import open_for
from edgekd.export.kernels import read_kernels
from edgekd.export.layer_formats import LAYERS
from edgekd.metrics import compare
from edgekd.runtime.bundle import read_manifest

SAMPLES = 300
FLOAT, OURS = "FP32", "edgekd"


def main() -> None:
    """Print the rows of every bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="+", metavar="BUNDLE DATA")
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()
    if len(options.pairs) % 2:
        parser.error("every BUNDLE needs its DATA behind it")
    protocol = Protocol(processes=options.processes, rounds=options.rounds)
    print(f"batch 1, {protocol.threads} thread, {protocol.processes} processes", end="")
    print(f" x {protocol.rounds} rounds; ratios are medians of paired calls (range of processes)\n")
    print(
        f"{'model':30} {'top-1':>7} {'agree':>7} {'NFR':>7} {'cosine':>8} {'least':>7} {'ms':>7}",
        end="",
    )
    print(f" {'speed of FP32':>21} {'edgekd is':>21} {'int layers':>10}")
    pairs = zip(map(Path, options.pairs[::2]), options.pairs[1::2], strict=True)
    for (_, data), block in groupby(pairs, lambda pair: (_baseline(pair[0]), pair[1])):
        bundles = [bundle for bundle, _ in block]
        print(f"-- {bundles[0].name}", flush=True)
        _print_rows(bundles, data, protocol)


def _baseline(bundle: Path) -> bytes:
    return (bundle / "baseline.onnx").read_bytes()


def _print_rows(bundles: list[Path], data: str, protocol: Protocol) -> None:
    dataset = open_for(read_manifest(bundles[0]), data)
    with tempfile.TemporaryDirectory() as folder:
        baseline = bundles[0] / "baseline.onnx"
        peers = quantize_with_peers(baseline, Path(folder), _calibration(dataset))
        others = {f"{OURS}, {bundle.name}": bundle / "model.onnx" for bundle in bundles[1:]}
        models = {FLOAT: baseline, **peers, OURS: bundles[0] / "model.onnx", **others}
        timed = measure(models, baseline=FLOAT, protocol=protocol).models
        reference = _outputs(baseline, dataset)
        for name, path in models.items():
            to_float = speed_up(timed[FLOAT].samples_ms, timed[name].samples_ms)
            lead = speed_up(timed[name].samples_ms, timed[OURS].samples_ms)
            integer, layers = read_kernels(path.read_bytes()).count(*LAYERS)
            print(
                f"{name:30} {_quality(_outputs(path, dataset), reference, dataset)}"
                f" {timed[name].median_ms:7.3f} {_ratio(*vars(to_float).values()):>21}"
                f" {_ratio(*vars(lead).values()):>21} {f'{integer}/{layers}':>10}",
                flush=True,
            )


def _calibration(data: Dataset) -> Rows:
    count = min(SAMPLES, len(data.calibration))
    arrays, _ = data.inputs(data.calibration, np.arange(count))
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]


def _outputs(path: Path, data: Dataset) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    indices = np.arange(len(data.validation))
    parts = np.array_split(indices, max(1, len(indices) // 64))
    return np.concatenate(
        [session.run(None, data.inputs(data.validation, part)[0])[0] for part in parts]
    )


def _quality(found: np.ndarray, reference: np.ndarray, data: Dataset) -> str:
    _, targets = data.inputs(data.validation, np.arange(len(data.validation)))
    quality = compare(found, reference, targets)
    cosines = _row_cosines(found, reference)
    cosine = f"{cosines.mean():8.5f} {cosines.min():7.4f}"
    if quality.agreement is None:
        return f"{'':7} {'':7} {'':7} {cosine}"
    return f"{quality.value:7.4f} {quality.agreement:7.4f} {quality.negative_flips:7.4f} {cosine}"


def _row_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def _ratio(ratio: float, low: float, high: float) -> str:
    return "1" if ratio == low == high == 1.0 else f"{ratio:.3f}x ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    main()
