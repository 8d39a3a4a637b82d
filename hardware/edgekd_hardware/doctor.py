"""What of edgekd works on this machine, and what to do about the rest."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import edgekd
from edgekd_hardware.probe import Cpu, probe_cpu

COMPRESS = ("torch", "onnx", "onnxscript", "safetensors", "sklearn", "matplotlib", "jinja2")
_DISTRIBUTIONS = {"sklearn": ("scikit-learn",), "onnxruntime": ("onnxruntime", "onnxruntime-gpu")}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``state`` is ``ok``, ``missing`` (needed), or ``note`` (optional)."""

    subject: str
    state: str
    value: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def examine() -> tuple[Finding, ...]:
    """Look at Python, the packages, the runtimes and the processor; changes nothing."""
    cpu = probe_cpu()
    return (
        _python(),
        Finding("edgekd", "ok", edgekd.__version__),
        _runtime("onnxruntime", needed=True, advice="pip install edgekd"),
        _runtime("tensorrt", needed=False, advice="comes with JetPack; only for Jetson targets"),
        openvino_finding(cpu),
        _compress_extra(),
        Finding("processor", "ok", f"{cpu.model}, {cpu.architecture}, {cpu.cores} usable cores"),
        int8_finding(cpu),
    )


def int8_finding(cpu: Cpu) -> Finding:
    """Say whether INT8 models can be expected to run faster than FP32 on this processor."""
    if cpu.int8_flags is None:
        return Finding("INT8 kernels", "note", "unknown here", "measure with: edgekd bench")
    if cpu.int8_flags:
        return Finding("INT8 kernels", "ok", f"pay: {', '.join(cpu.int8_flags)}")
    wanted = "VNNI" if cpu.architecture == "x86_64" else "the dot product instructions"
    advice = "INT8 makes models smaller here, hardly faster; measure with: edgekd bench"
    return Finding("INT8 kernels", "note", f"no {wanted}", advice)


def openvino_finding(cpu: Cpu) -> Finding:
    """Say whether OpenVINO is there, and whether it can run unquantized models in bf16."""
    version = installed_version("openvino")
    if version is None:
        advice = 'a second runtime for CPU targets: pip install "edgekd[openvino]"'
        return Finding("openvino", "note", "not installed", advice)
    if cpu.bf16_flags is None:
        return Finding("openvino", "ok", f"{version}; bf16 unknown here")
    bf16 = f"bf16 with {', '.join(cpu.bf16_flags)}" if cpu.bf16_flags else "no bf16 here"
    return Finding("openvino", "ok", f"{version}; {bf16}")


def installed_version(module: str) -> str | None:
    """Return the version of an importable package, None when it is not there.

    Looks the package up without importing it: importing TensorRT without a GPU driver can end
    the process.
    """
    try:
        if importlib.util.find_spec(module) is None:
            return None
    except (ImportError, ValueError):
        return None
    for distribution in _DISTRIBUTIONS.get(module, (module,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "installed"


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info < (3, 14):
        return Finding("Python", "ok", version)
    return Finding("Python", "note", version, "edgekd is tested with 3.11 to 3.13")


def _runtime(module: str, *, needed: bool, advice: str) -> Finding:
    version = installed_version(module)
    if version:
        return Finding(module, "ok", version)
    return Finding(module, "missing" if needed else "note", "not installed", advice)


def _compress_extra() -> Finding:
    versions = {module: installed_version(module) for module in COMPRESS}
    absent = [module for module, version in versions.items() if version is None]
    if not absent:
        return Finding("compress extra", "ok", f"torch {versions['torch']}")
    advice = 'to compress models: pip install "edgekd[compress]"'
    return Finding("compress extra", "note", f"not installed: {', '.join(absent)}", advice)
