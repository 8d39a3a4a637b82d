"""Which runtimes work here, tried out one by one in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgekd_hardware.findings import Finding
from edgekd_hardware.gpu import Driver
from edgekd_hardware.packages import installed_onnxruntimes, installed_version
from edgekd_hardware.probe import Cpu

MODELS = Path(__file__).parent / "models"
_CHECK = Path(__file__).with_name("runtime_check.py")
_TIMEOUT_S = 120.0
_PROVIDERS = {"CUDAExecutionProvider": "CUDA", "TensorrtExecutionProvider": "TensorRT"}


def try_runtime(name: str, *arguments: str) -> dict[str, Any] | str:
    """Run the check of one runtime; return what it found, or in one line what went wrong."""
    command = [sys.executable, "-P", str(_CHECK), name, *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_TIMEOUT_S:g} s"
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else f"its process ended with code {done.returncode}"
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return "its process did not answer"
    return answer


def onnxruntime_findings(driver: Driver) -> tuple[Finding, ...]:
    """Say whether ONNX Runtime works, and on what."""
    if installed_version("onnxruntime") is None:
        return (Finding("onnxruntime", "missing", "not installed", "pip install edgekd"),)
    double = double_finding(installed_onnxruntimes())
    found = try_runtime("onnxruntime", str(MODELS / "overhead_few.onnx"))
    if isinstance(found, str):
        advice = "pip install --force-reinstall onnxruntime"
        return (Finding("onnxruntime", "missing", f"does not work: {found}", advice), *double)
    if "CPUExecutionProvider" not in found["working"]:
        advice = "pip install --force-reinstall onnxruntime"
        return (Finding("onnxruntime", "missing", "opens no model on the CPU", advice), *double)
    on_gpu = (_provider(name, found, driver) for name in _PROVIDERS)
    return (
        Finding("onnxruntime", "ok", f"{found['version']} on the CPU"),
        *double,
        *(finding for finding in on_gpu if finding),
    )


def double_finding(installed: dict[str, str]) -> tuple[Finding, ...]:
    """Report several builds of ONNX Runtime (name -> version) that share one folder."""
    if len(installed) < 2:
        return ()
    names = list(installed)
    keep = next((name for name in names if name != "onnxruntime"), names[0])
    value = " and ".join(f"{name} {version}" for name, version in installed.items())
    advice = (
        "they overwrite each other's files; keep one: "
        f"pip uninstall -y {' '.join(names)} && pip install --no-deps {keep}"
    )
    return (Finding("onnxruntime twice", "missing", value, advice),)


def openvino_finding(cpu: Cpu) -> Finding:
    """Say whether OpenVINO works, on which devices, and whether it can compute in bf16."""
    if installed_version("openvino") is None:
        advice = 'a second runtime for CPU targets: pip install "edgekd[openvino]"'
        return Finding("openvino", "note", "not installed", advice)
    found = try_runtime("openvino")
    if isinstance(found, str):
        advice = 'pip install --force-reinstall "edgekd[openvino]"'
        return Finding("openvino", "note", f"does not work: {found}", advice)
    devices = ", ".join(found["devices"]) or "no device"
    return Finding("openvino", "ok", f"{found['version']} on {devices}; {_bf16(cpu)}")


def tensorrt_finding(module: str, driver: Driver, *, jetson: bool) -> Finding:
    """Say whether TensorRT (or TensorRT-RTX) works; it is touched only where a driver does."""
    version = installed_version(module)
    if version is None and jetson:
        advice = "JetPack's is for the system's Python: see JetPack Python"
        return Finding(module, "note", "not in this Python", advice)
    if version is None:
        package = "tensorrt" if module == "tensorrt" else "tensorrt-rtx"
        advice = f"pip install {package}" if driver.works else "needs an NVIDIA GPU"
        return Finding(module, "note", "not installed", advice)
    if not driver.works:
        advice = "runs nothing without a GPU; the parser of tensorrt-rtx still checks graphs"
        return Finding(module, "note", f"{version}, not tried: {driver.reason}", advice)
    found = try_runtime(module)
    if isinstance(found, str):
        advice = f"the driver runs CUDA up to {driver.cuda}: install a version made for that"
        return Finding(module, "note", f"{version} does not work: {found}", advice)
    return Finding(module, "ok", f"{found['version']}, builds engines here")


def _provider(name: str, found: dict[str, Any], driver: Driver) -> Finding | None:
    """Say whether a provider for GPUs works; None where there is no GPU to run it on."""
    subject = f"onnxruntime {_PROVIDERS[name]}"
    if not driver.works:
        return None
    if name in found["working"]:
        return Finding(subject, "ok", "works")
    if name in found["built_in"]:
        needed = "CUDA and cuDNN" if name.startswith("CUDA") else "TensorRT"
        advice = f"it needs the {needed} that this onnxruntime-gpu was built for"
        return Finding(subject, "note", "is built in but does not load", advice)
    advice = "pip uninstall -y onnxruntime && pip install --no-deps onnxruntime-gpu"
    return Finding(subject, "note", "not in this build", advice)


def _bf16(cpu: Cpu) -> str:
    if cpu.bf16_flags is None:
        return "bf16 unknown here"
    return f"bf16 with {', '.join(cpu.bf16_flags)}" if cpu.bf16_flags else "no bf16 here"
