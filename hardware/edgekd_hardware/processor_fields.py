"""The fields of a profile that are found and measured on the processor, with their sources."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from edgekd_hardware.gpu import Gpu
from edgekd_hardware.machine import Machine
from edgekd_hardware.packages import installed_version
from edgekd_hardware.probe import BF16_FLAGS, INT8_FLAGS, Cpu
from edgekd_hardware.rates import SIZE, Rates

# Besides those for INT8 and bf16: what ONNX Runtime's and OpenVINO's float kernels are chosen by.
_FLOAT_FLAGS = {
    "x86_64": ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_fp16"),
    "aarch64": ("asimd", "asimdhp", "sve", "sve2"),
}

_PAYS = 1.5  # what quantizing at borders costs has to come back first


def processor_fields(
    machine: Machine, rates: Rates, today: date
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields and the sources of a profile for ONNX Runtime on this processor."""
    cpu, found = machine.cpu, f"found on {today} by edgekd targets probe"
    measured = f"measured on {today} by edgekd targets probe"
    threads = f"{rates.threads} thread{'s' if rates.threads > 1 else ''}"
    runtimes = ["onnxruntime"]
    if installed_version("openvino"):
        runtimes.append("openvino")
    data: dict[str, Any] = {
        "name": "",
        "title": machine.board or cpu.model,
        "updated": today,
        "runtime": "onnxruntime",
        "runtimes": runtimes,
        "opset": onnxruntime_opset(installed_version("onnxruntime") or ""),
        "threads": rates.threads,
        "recipe": "int8-distilled",
        "channel_multiple": 16,
        "cpu_flags": kernel_flags(cpu),
        "int8": _int8(rates),
        "peak_gmacs": {name: three_digits(rate) for name, rate in rates.gmacs.items()},
        "memory_gb_per_s": three_digits(rates.memory_gb_per_s),
        "layer_overhead_us": three_digits(rates.node_us),
        "notes": _notes(machine, rates),
    }
    sources = {
        "runtimes": f"{found}: Python packages that are installed",
        "opset": (
            f"{found}: onnxruntime {installed_version('onnxruntime')}; ONNX Runtime compatibility "
            "table, https://onnxruntime.ai/docs/reference/compatibility.html"
        ),
        "recipe": "a choice of edgekd, as in its other profiles",
        "threads": "as asked for with --threads; one thread gives the steadiest comparison",
        "channel_multiple": (
            "a choice of edgekd, as in its profiles of processors (16 INT8 or FP32 columns are one "
            "block of ONNX Runtime's kernels); not measured here"
        ),
        "peak_gmacs": (
            f"{measured}: 256 x {SIZE} x {SIZE} matrix products on {threads}, the fastest of 200 "
            f"calls in 8 fresh processes, whose best differ by {max(rates.spread.values()):.0%}; "
            f"float32 is MatMul and int8 QLinearMatMul (uint8 by int8) of ONNX "
            f"Runtime{', bfloat16 is OpenVINO' if 'bfloat16' in rates.gmacs else ''} "
            f"({rates.runtime})"
        ),
        "int8": (
            f"{measured}: fast where the INT8 rate of peak_gmacs is at least {_PAYS:g} times that "
            "of float32"
        ),
        "memory_gb_per_s": _memory_source(measured, threads, rates),
        "layer_overhead_us": (
            f"{measured}: what each of 128 more nodes on 16 numbers adds to a chain in ONNX "
            f"Runtime on {threads}, the median of paired differences"
        ),
        "notes": found,
    }
    if cpu.architecture in INT8_FLAGS:
        data["architecture"] = cpu.architecture
        sources["architecture"] = f"{found}: platform.machine()"
    if data["cpu_flags"]:
        sources["cpu_flags"] = f"{found}: /proc/cpuinfo, those that kernels are chosen by"
    if machine.memory_bytes:
        data["memory_gib"] = round(machine.memory_bytes / 2**30, 2)
        sources["memory_gib"] = (
            f"{found}: MemTotal of /proc/meminfo, less than is fitted by what firmware and kernel "
            "keep"
        )
    return data, sources


def _int8(rates: Rates) -> str:
    """Say whether integers gain enough over floats to make up for quantizing at borders."""
    return "fast" if rates.gmacs["int8"] >= _PAYS * rates.gmacs["float32"] else "slow"


def kernel_flags(cpu: Cpu) -> list[str]:
    """Return the instruction sets of the processor that kernels are chosen by, sorted."""
    known = [table.get(cpu.architecture, ()) for table in (_FLOAT_FLAGS, INT8_FLAGS, BF16_FLAGS)]
    return sorted({flag for names in known for flag in names} & (cpu.flags or frozenset()))


def onnxruntime_opset(version: str) -> int:
    """Return the newest operator set that edgekd writes for a version of ONNX Runtime.

    1.20 reads opset 21, 1.17 opset 20 and 1.13 opset 17 (ONNX Runtime compatibility table); newer
    ones read more, but nothing that edgekd would use.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return next((opset for since, opset in (((1, 20), 21), ((1, 17), 20)) if numbers >= since), 17)


def three_digits(number: float) -> float:
    """Round to what a measurement like these can carry."""
    return float(f"{number:.3g}")


def _notes(machine: Machine, rates: Rates) -> str:
    cpu, parts = machine.cpu, [f"{machine.cpu.model}, {machine.cpu.cores} usable cores."]
    if rates.cache_bytes:
        parts.append(f"Last-level cache {rates.cache_bytes / 2**20:g} MiB.")
    parts.append(f"Load average {rates.load:.1f} in the minute before measuring.")
    if cpu.int8_flags == ():
        parts.append("No instructions for INT8: expect little over FP32.")
    if machine.jetson:
        mode = machine.jetson.power_mode
        name = next((m.name for m in machine.jetson.power_modes if m.id == mode), "unknown")
        parts.append(
            f"Jetson Linux {machine.jetson.linux}, JetPack {machine.jetson.jetpack}, TensorRT "
            f"{machine.jetson.tensorrt}; measured in power mode {name}."
        )
    parts += _gpu_notes(machine.gpus)
    return " ".join(parts)


def _gpu_notes(gpus: tuple[Gpu, ...] | str) -> Sequence[str]:
    if isinstance(gpus, str):
        return [f"GPU: {gpus}."]
    return [
        f"GPU {gpu.name}, {gpu.memory_gib:g} GiB, compute capability {gpu.compute_capability}, "
        f"driver {gpu.driver}; not measured."
        for gpu in gpus
    ]


def _memory_source(measured: str, threads: str, rates: Rates) -> str:
    mib = rates.array_bytes / 2**20
    cache = rates.cache_bytes
    text = (
        f"{measured}: the better of copying and adding arrays of {mib:g} MiB with numpy on "
        f"{threads} (copy {rates.copy_gb_per_s:.1f}, add {rates.add_gb_per_s:.1f} GB/s, reads and "
        "writes counted, best pass of a fresh process)"
    )
    if cache is None:
        return f"{text}; the size of the caches is not known"
    size = f"the last-level cache of {cache / 2**20:g} MiB"
    held = "larger than" if rates.from_memory else "NOT larger than, so partly the speed of,"
    return f"{text}; each array is {held} {size}"
