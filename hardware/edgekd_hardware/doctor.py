"""What of edgekd works on this machine, and what to do about the rest."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import edgekd
from edgekd.device import list_profiles
from edgekd.errors import MeasurementError
from edgekd_hardware import clocks, gpu, jetson_check, limits, raspberry_pi
from edgekd_hardware.findings import Finding
from edgekd_hardware.jetson import read_jetson
from edgekd_hardware.packages import COMPRESS, installed_version
from edgekd_hardware.probe import Cpu, probe_cpu
from edgekd_hardware.runtimes import onnxruntime_findings, openvino_finding, tensorrt_finding
from edgekd_hardware.system import ROOT


def examine() -> tuple[Finding, ...]:
    """Look at Python, the packages, the runtimes and the machine; changes nothing.

    CUDA's driver comes before TensorRT, which without one may end the process.
    """
    cpu, driver = probe_cpu(), gpu.driver()
    is_jetson = read_jetson() is not None
    return (
        _python(),
        Finding("edgekd", "ok", edgekd.__version__),
        *onnxruntime_findings(driver),
        openvino_finding(cpu),
        tensorrt_finding("tensorrt", driver, jetson=is_jetson),
        tensorrt_finding("tensorrt_rtx", driver, jetson=is_jetson),
        _compress_extra(),
        *gpu.findings(driver, gpu.gpus() if driver.works else ""),
        Finding("processor", "ok", f"{cpu.model}, {cpu.architecture}, {cpu.cores} usable cores"),
        int8_finding(cpu),
        *machine_findings(cpu.cores),
    )


def machine_findings(cores: int, root: Path = ROOT) -> tuple[Finding, ...]:
    """Look at what the system's files tell of board, clocks and limits.

    ``cores`` is the number of cores that this process may run on.
    """
    jetson = read_jetson(root)
    stacks = [stack for profile in list_profiles() for stack in profile.software]
    python = ".".join(map(str, sys.version_info[:2]))
    return (
        *(jetson_check.findings(jetson, stacks, python, root) if jetson else ()),
        *raspberry_pi.findings(root),
        *clocks.findings(root),
        *limits.findings(cores, root),
    )


def int8_finding(cpu: Cpu) -> Finding:
    """Say whether INT8 models can be expected to run faster than FP32 on this processor."""
    measure = "measure with: edgekd doctor --measure"
    if cpu.int8_flags is None:
        return Finding("INT8 kernels", "note", "unknown here", measure)
    if cpu.int8_flags:
        return Finding("INT8 kernels", "ok", f"pay: {', '.join(cpu.int8_flags)}")
    wanted = "VNNI" if cpu.architecture == "x86_64" else "the dot product instructions"
    advice = f"INT8 makes models smaller here, hardly faster; {measure}"
    return Finding("INT8 kernels", "note", f"no {wanted}", advice)


def measured_int8() -> tuple[Finding, ...]:
    """Time ONNX Runtime's INT8 product against its FP32 product and say what the ratio is.

    Takes some seconds. The ratio is that of the kernels: a model gains less, by what it computes
    besides. Raises MeasurementError when it cannot be measured.
    """
    from edgekd_hardware.rates import int8_duet

    report = int8_duet()
    int8 = report.models["int8"]
    if int8.ratio is None or int8.ratio_low is None or int8.ratio_high is None:
        raise MeasurementError("the INT8 product was not timed against FP32")
    value = (
        f"{int8.ratio:.2f}x of FP32 ({int8.ratio_low:.2f} to {int8.ratio_high:.2f}): a 256 x 1024 "
        f"x 1024 product on one thread, {report.interval}"
    )
    if int8.ratio_low > 1.1:
        return (Finding("INT8 measured", "ok", value),)
    advice = "models gain nothing from INT8 here but size; use --runtime openvino or prune"
    return (Finding("INT8 measured", "note", value, advice),)


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info < (3, 14):
        return Finding("Python", "ok", version)
    return Finding("Python", "note", version, "edgekd is tested with 3.11 to 3.13")


def _compress_extra() -> Finding:
    versions = {module: installed_version(module) for module in COMPRESS}
    absent = [module for module, version in versions.items() if version is None]
    if not absent:
        return Finding("compress extra", "ok", f"torch {versions['torch']}")
    advice = 'to compress models: pip install "edgekd[compress]"'
    return Finding("compress extra", "note", f"not installed: {', '.join(absent)}", advice)
