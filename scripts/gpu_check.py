"""Every GPU test and the GPU benchmark: one command, at most 9 minutes, no network.

    scripts/gpu-check [--models FOLDER] [--wheels FOLDER] [--tensorrt-python PYTHON] [--out FOLDER]

For a machine with an NVIDIA GPU that nothing can be fetched on: bring the repository, a folder of
wheels for what its Python lacks (``pip download``), and a TensorRT. Models are made here unless
``--models`` has what ``scripts/gpu_pack.py`` wrote. ``--tensorrt-python`` is the interpreter that
has TensorRT where the one with edgekd has not (TensorRT 8 has no packages for Python 3.11): it
needs numpy besides.

Each part has a limit of its own; one that fails or runs out does not stop the next. Exit code 0:
all ran and passed, 1: something failed, 2: there is no usable GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (ROOT, ROOT / "cli", ROOT / "hardware")
sys.path[:0] = [str(path) for path in SOURCES]

from edgekd.errors import BundleError  # noqa: E402
from edgekd.runtime.cuda import Cuda, why_no_gpu  # noqa: E402

INSTALL_S, MODELS_S, TESTS_S, BENCHMARK_S = 45, 120, 150, 215  # together under 9 minutes


@dataclass(frozen=True)
class Part:
    """A part of the check: what it was, how it ended, and how long it took."""

    name: str
    result: str
    passed: bool
    seconds: float


def main() -> int:
    """Run all parts and print what came of them; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, help="what scripts/gpu_pack.py wrote")
    parser.add_argument("--wheels", type=Path, help="installed into a temporary folder")
    parser.add_argument("--tensorrt-python", default=sys.executable)
    parser.add_argument("--binding", default="tensorrt", choices=("tensorrt", "tensorrt_rtx"))
    parser.add_argument("--out", type=Path, help="for logs and samples")
    options = parser.parse_args()
    if reason := why_no_gpu():
        return _say(f"nothing was run: there is no usable NVIDIA GPU ({reason})", 2)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        out = options.out or work / "out"
        out.mkdir(parents=True, exist_ok=True)
        _say(_machine())
        parts = []
        packages = work / "packages"
        if options.wheels:
            parts.append(_install(options.wheels, packages))
        paths = [str(path) for path in (packages, *SOURCES)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        models = options.models or work / "models"
        if options.models is None:
            make = [sys.executable, "scripts/gpu_pack.py", str(models)]
            parts.append(_run("models", make, MODELS_S, environment, out))
        parts.append(_tests(environment, out))
        parts.append(_benchmark(models, options, environment, out))
        for part in parts:
            _say(f"{part.name:12} {part.result} ({part.seconds:.0f} s)")
        return 0 if all(part.passed for part in parts) else 1


def _machine() -> str:
    """Say which GPU this is."""
    try:
        cuda = Cuda()
        machine = cuda.machine()
        cuda.close()
    except (BundleError, RuntimeError) as error:
        return f"the GPU cannot be asked: {error}"
    return (
        f"{machine.name}, compute capability {machine.compute_capability}, driver for CUDA "
        f"{machine.cuda}, {machine.memory_bytes / 2**30:.0f} GiB, {time.strftime('%Y-%m-%d')}"
    )


def _install(wheels: Path, packages: Path) -> Part:
    files = [str(path) for path in sorted(wheels.glob("*.whl"))]
    flags = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(packages)]
    command = [sys.executable, "-m", "pip", "install", *flags, *files]
    return _run("packages", command, INSTALL_S, dict(os.environ), None)


def _tests(environment: dict[str, str], out: Path) -> Part:
    report = out / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}"]
    part = _run("GPU tests", command, TESTS_S, environment, out)
    if not report.is_file():
        return part
    suite = ET.parse(report).getroot().find("testsuite")
    if suite is None:
        return part
    count = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    text = f"{passed} passed, {failed} failed, {count['skipped']} skipped"
    reasons = sorted({skip.get("message", "") for skip in suite.iter("skipped")})
    if reasons:
        text += f" ({'; '.join(reasons)})"
    return Part(part.name, text, failed == 0 and passed > 0, part.seconds)


def _benchmark(
    models: Path, options: argparse.Namespace, environment: dict[str, str], out: Path
) -> Part:
    command = [sys.executable, "-m", "benchmarks.gpu", str(models)]
    command += ["--tensorrt-python", options.tensorrt_python, "--binding", options.binding]
    command += ["--json", str(out / "gpu.json")]
    return _run("benchmark", command, BENCHMARK_S, environment, None)


def _run(
    name: str, command: list[str], limit_s: int, environment: dict[str, str], logs: Path | None
) -> Part:
    """Run a part; with ``logs`` its output goes into a file there, else to the terminal."""
    start = time.monotonic()
    log = logs / f"{name.replace(' ', '_')}.log" if logs else None
    try:
        with contextlib.ExitStack() as opened:
            target = opened.enter_context(log.open("w")) if log else None
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=target,
                stderr=target,
                timeout=limit_s,
                check=False,
            )
        result, passed = f"exit code {done.returncode}", done.returncode == 0
        if log and not passed:
            words = log.read_text("utf-8", "replace").strip().splitlines()
            result += f": {words[-1]}" if words else ""
    except subprocess.TimeoutExpired:
        result, passed = f"not finished within {limit_s} s", False
    return Part(name, "done" if passed else result, passed, time.monotonic() - start)


def _say(text: str, code: int = 0) -> int:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
