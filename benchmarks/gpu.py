"""Our engines against TensorRT in FP16, ONNX Runtime on CUDA and torch.compile: one table.

    python -m benchmarks.gpu FOLDER [--tensorrt-python PYTHON] [--batches 1 64] [--rounds 300]

FOLDER is what ``scripts/gpu-check pack`` writes: models, inputs and reference outputs. Engines are
built here and now. Every contender lives in a process of its own (they need other interpreters and
libraries); all stay, and single calls take turns in random order, so that what slows the GPU down
slows all of them. A ratio is the median of paired ratios in each of ten blocks of rounds: their
median, and in brackets the lowest and highest block. Agreement is with the same ONNX model on ONNX
Runtime's CPU kernels: the share of samples with the same largest output.

``--device cpu`` runs what can run without a GPU, to try the script itself; the heading says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bench.stats import percentile, process_log_ratios
from edgekd.engine.plan import PLAN_NAME

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = 10
WARM_UP = 30
REFERENCE = "TensorRT FP16"
_START_S = 300  # torch.compile tries many kernels


class Contender:
    """A process of ``gpu_worker``; raises RuntimeError with its last words when it ends."""

    def __init__(self, job: Mapping[str, Any], python: str) -> None:
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        self._process = subprocess.Popen(
            [python, str(ROOT / "benchmarks" / "gpu_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        self.version = self.ask(job)["what"]

    def ask(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Send a line and return the answer; what libraries print on stdout is passed over."""
        assert self._process.stdin and self._process.stdout and self._process.stderr
        try:
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        for answer in self._process.stdout:
            if answer.startswith("{"):
                found: dict[str, Any] = json.loads(answer)
                return found
        words = self._process.stderr.read().strip().splitlines()
        raise RuntimeError(words[-1] if words else f"ended with {self._process.wait()}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Build, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tensorrt-python", default=sys.executable)
    parser.add_argument("--binding", default="tensorrt", choices=("tensorrt", "tensorrt_rtx"))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", type=Path, help="write every sample")
    options = parser.parse_args()
    if options.rounds % BLOCKS:
        parser.error(f"--rounds must be a multiple of {BLOCKS}")
    content = json.loads((options.folder / "gpu.json").read_text("utf-8"))
    where = "" if options.device == "cuda" else " (a dry run on the CPU: no figure of it counts)"
    print(f"single calls in turns, {options.rounds} rounds, inputs on the device{where}\n")
    header = (
        f"{'model':22} {'batch':>5} {'contender':28} {'version':>12} {'median':>10} {'p90':>10}"
    )
    print(f"{header} {'against ' + REFERENCE:>24} {'agreement':>9}")
    results = []
    with tempfile.TemporaryDirectory() as work:
        for model in content["models"]:
            results += list(_rows(model, options, Path(work)))
    if options.json:
        options.json.write_text(json.dumps(results), "utf-8")
    if not any("median_ms" in row for row in results):
        raise SystemExit("no contender could be run")


def _rows(
    model: Mapping[str, Any], options: argparse.Namespace, work: Path
) -> Iterator[dict[str, Any]]:
    """Print and yield the rows of one model; a contender that cannot run has its reason."""
    running: dict[str, Contender] = {}
    agreement: dict[str, float | None] = {}
    for job in model["contenders"]:
        name = job["name"]
        try:
            ready, python = _prepare(job, model, options, work)
            running[name] = Contender(ready, python)
            agreement[name] = _agreement(running[name], model, job, options.folder, work)
        except RuntimeError as error:
            print(f"{model['name']:22} {'':>5} {name:28} not run: {error}", flush=True)
            yield {"model": model["name"], "contender": name, "reason": str(error)}
            if name in running:
                running.pop(name).close()
    try:
        for batch in options.batches:
            samples = _alternate(running, batch, options.rounds)
            for name, times in samples.items():
                row = {
                    "model": model["name"],
                    "batch": batch,
                    "contender": name,
                    "version": running[name].version,
                    "agreement": agreement[name],
                    "median_ms": float(np.median(times)),
                    "samples_ms": times,
                }
                print(_line(row, times, samples.get(REFERENCE)), flush=True)
                yield row
    finally:
        for contender in running.values():
            contender.close()


def _prepare(
    job: Mapping[str, Any], model: Mapping[str, Any], options: argparse.Namespace, work: Path
) -> tuple[dict[str, Any], str]:
    """Return what the worker is told, and the interpreter; engines are built first."""
    files = {
        key: str(options.folder / job[key]) for key in ("onnx", "weights", "folder") if key in job
    }
    ready = {**job, **files, "device": options.device, "inputs": model["inputs"]}
    if "arch" in job:
        ready["arch"] = str(ROOT / job["arch"])
    if job["kind"] != "engine":
        return ready, sys.executable
    if options.device == "cpu":
        raise RuntimeError("an engine needs a GPU")
    engine = work / f"{model['name']}-{job['name']}.engine".replace(" ", "_")
    _build(job, options, engine)
    return {**ready, "engine": str(engine), "binding": options.binding}, options.tensorrt_python


def _build(job: Mapping[str, Any], options: argparse.Namespace, engine: Path) -> None:
    """Build the engine of a folder with ``build.json`` in TensorRT's interpreter.

    Kernels of cuBLAS and cuDNN are left out: they may not be there. Raises RuntimeError.
    """
    folder = options.folder / job["folder"]
    build = json.loads((folder / PLAN_NAME).read_text("utf-8"))
    for variant in build["variants"]:
        for shape in variant["plan"]["shapes"].values():
            shape["max"][0] = max(options.batches)
    files = {variant["plan"]["onnx"] for variant in build["variants"]}
    ask = {
        "build": build,
        "onnx": {name: str(folder / name) for name in files},
        "binding": options.binding,
        "target_capability": None,
        "spec": {"inputs": [], "outputs": []},
        "stored": dict.fromkeys(files, "int8" if "int8" in job["folder"] else "float16"),
        "quantized": [],
        "logits": False,
        "timing_cache": None,
        "reference": None,
        "external_tactics": False,
        "write": {
            "engine": str(engine),
            "timing_cache": f"{engine}.cache",
            "layers": f"{engine}.layers.json",
        },
    }
    done = subprocess.run(
        [options.tensorrt_python, "-m", "edgekd.engine.worker"],
        input=json.dumps(ask),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise RuntimeError(words[-1] if words else f"building ended with {done.returncode}")


def _alternate(running: Mapping[str, Contender], batch: int, rounds: int) -> dict[str, list[float]]:
    """Return name -> milliseconds of each round; every round calls each contender once."""
    names = list(running)
    for name in names:
        running[name].ask({"op": "time", "batch": batch, "calls": WARM_UP})
    samples: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(batch)
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            # The first call after a pause finds a GPU that has slowed down; only the second counts.
            answer = running[name].ask({"op": "time", "batch": batch, "calls": 2})
            samples[name].append(answer["ms"][1])
    return samples


def _agreement(
    contender: Contender,
    model: Mapping[str, Any],
    job: Mapping[str, Any],
    folder: Path,
    work: Path,
) -> float | None:
    """Return the share of samples with the reference's largest output; None without samples."""
    if "reference" not in job:
        return None
    out = work / "answers.npz"
    contender.ask({"op": "answers", "inputs": str(folder / model["samples"]), "out": str(out)})
    found, wanted = np.load(out)["output"], np.load(folder / job["reference"])["output"]
    return float(np.mean(found.argmax(1) == wanted.argmax(1)))


def _line(row: Mapping[str, Any], times: list[float], reference: list[float] | None) -> str:
    ratio = ""
    if reference is not None:
        shape = (BLOCKS, len(times) // BLOCKS)
        logs = process_log_ratios(
            np.reshape(np.asarray(reference), shape), np.reshape(np.asarray(times), shape)
        )
        middle, low, high = np.exp([np.median(logs), logs.min(), logs.max()])
        ratio = f"{middle:.2f}x ({low:.2f} to {high:.2f})"
    p90, agreement = percentile(times, 90), row["agreement"]
    return (
        f"{row['model']:22} {row['batch']:>5} {row['contender']:28} {row['version']:>12} "
        f"{row['median_ms']:>7.3f} ms {p90 or 0:>7.3f} ms {ratio:>24} "
        f"{'-' if agreement is None else f'{100 * agreement:.2f} %':>9}"
    )


if __name__ == "__main__":
    main()
