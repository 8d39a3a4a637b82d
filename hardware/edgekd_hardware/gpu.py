"""The NVIDIA GPU: whether its driver starts, and what NVML tells of it.

Where no driver starts, some versions of TensorRT end the whole process as soon as they are used.
So ``driver`` asks CUDA's driver library itself, and comes before everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from edgekd.runtime.cuda import LIBRARY, newest_cuda, why_no_gpu
from edgekd_hardware.findings import Finding


@dataclass(frozen=True)
class Driver:
    """``works`` after ``cuInit`` succeeded. ``cuda`` is the newest CUDA that the driver runs."""

    works: bool
    cuda: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML describes it; ``memory_gib`` in GiB, ``power_limit_w`` in watts."""

    name: str
    driver: str
    memory_gib: float
    compute_capability: str
    power_limit_w: float | None = None


def driver(library: str = LIBRARY) -> Driver:
    """Start CUDA's driver as programs do; ``library`` is its name or path."""
    reason = why_no_gpu(library)
    if reason is not None:
        return Driver(works=False, reason=reason)
    return Driver(works=True, cuda=newest_cuda(library))


def gpus() -> tuple[Gpu, ...] | str:
    """Return the GPUs that NVML lists, or in words why there are none."""
    if find_spec("pynvml") is None:
        return 'not asked: pip install "edgekd[gpu]"'
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"NVML does not start: {error}"
    try:
        return tuple(_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        return f"NVML fails: {error}"
    finally:
        pynvml.nvmlShutdown()


def findings(found: Driver, devices: tuple[Gpu, ...] | str) -> tuple[Finding, ...]:
    """Say whether a GPU can be used; none is no fault."""
    if not found.works:
        state_of_it = "none" if found.reason == "no NVIDIA driver" else "driver does not start"
        advice = "" if state_of_it == "none" else "install the driver again, then restart"
        return (Finding("NVIDIA GPU", "note", f"{state_of_it} ({found.reason})", advice),)
    runs = f"driver runs CUDA up to {found.cuda}"
    if isinstance(devices, str):
        return (Finding("NVIDIA GPU", "ok", f"{runs}; details {devices}"),)
    return tuple(
        Finding(
            "NVIDIA GPU",
            "ok",
            f"{gpu.name}, {gpu.memory_gib:g} GiB, compute capability {gpu.compute_capability}, "
            f"driver {gpu.driver}; {runs}",
        )
        for gpu in devices
    )


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    try:
        limit = nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000
    except nvml.NVMLError:  # not every board has one
        limit = None
    return Gpu(
        name=nvml.nvmlDeviceGetName(handle),
        driver=nvml.nvmlSystemGetDriverVersion(),
        memory_gib=round(nvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30, 1),
        compute_capability=f"{major}.{minor}",
        power_limit_w=limit,
    )
