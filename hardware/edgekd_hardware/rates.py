"""How fast this machine is: matrix products, memory, and what a node costs, all measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd.bench import LatencyReport, ModelLatency, Protocol, Variant, measure
from edgekd.bench.runner import run_worker
from edgekd.device import Arithmetic
from edgekd.errors import MeasurementError
from edgekd.progress import Progress, Silent
from edgekd_hardware.memory import available_bytes, last_level_cache
from edgekd_hardware.packages import installed_version
from edgekd_hardware.probe import Cpu

MODELS = Path(__file__).parent / "models"
SIZE = 1024  # inputs and outputs of the shipped products (hardware/make_probe_models.py)
_ROWS = 256
_BUSY = 0.15  # processes that differ by more were not alone on the machine
_NODES = 128  # so many more nodes has the longer of the two shipped chains
_LEAST_ARRAY, _SHARE = 2**26, 8  # bytes; all three arrays take 3/8 of what is free at most
_DUET = {"float32": "matmul_float32.onnx", "int8": "matmul_int8.onnx"}


@dataclass(frozen=True)
class Rates:
    """What was measured, on ``threads`` threads.

    ``gmacs`` are billions of multiply-accumulates a second by arithmetic, of the fastest call;
    ``spread`` is by what share the best of the slowest process stays below that. ``copy_gb_per_s``
    and ``add_gb_per_s`` are billions of bytes a second of two memory kernels over arrays of
    ``array_bytes`` bytes; ``cache_bytes`` is the last-level cache, None where it is unknown.
    ``node_us`` are the microseconds that one more trivial node takes in ONNX Runtime. ``load`` is
    the system's load average of the minute before.
    """

    threads: int
    runtime: str
    gmacs: Mapping[Arithmetic, float]
    spread: Mapping[Arithmetic, float]
    copy_gb_per_s: float
    add_gb_per_s: float
    array_bytes: int
    cache_bytes: int | None
    node_us: float
    load: float

    @property
    def memory_gb_per_s(self) -> float:
        """The better of the two kernels: neither can be faster than the memory."""
        return max(self.copy_gb_per_s, self.add_gb_per_s)

    @property
    def from_memory(self) -> bool:
        """Whether the arrays were so much larger than the cache that it cannot hold them."""
        return self.cache_bytes is None or self.array_bytes >= self.cache_bytes


def measure_rates(cpu: Cpu, threads: int, progress: Progress | None = None) -> Rates:
    """Measure this machine in well under a minute; raises MeasurementError when a part fails."""
    progress = progress or Silent()
    load = os.getloadavg()[0]
    with progress.task("Measuring this machine", 3) as advance:
        products = _products(cpu, threads)
        advance(1)
        cache = last_level_cache()
        size = array_bytes(cache, available_bytes())
        job = {"array_bytes": size, "threads": threads, "seconds": 1.5}
        memory = run_worker("edgekd.bench.bandwidth_worker", job, timeout_s=300)
        advance(1)
        node_us = _node_us(threads)
        advance(1)
    names: tuple[Arithmetic, ...] = ("float32", "int8", "bfloat16")
    found = products.models
    fastest = {name: _fastest(found[name]) for name in names if name in found}
    spread = {name: share for name, (_, share) in fastest.items()}
    if load > cpu.cores / 2 or max(spread.values()) > _BUSY:
        progress.note(
            f"something else runs here (load {load:.1f} on {cpu.cores} cores, processes differ by "
            f"{max(spread.values()):.0%}): these may be a busy machine's rates; probe again when "
            "it is idle"
        )
    return Rates(
        threads=threads,
        runtime=products.runtime,
        gmacs={name: rate for name, (rate, _) in fastest.items()},
        spread=spread,
        copy_gb_per_s=memory["copy"],
        add_gb_per_s=memory["add"],
        array_bytes=size,
        cache_bytes=cache,
        node_us=node_us,
        load=load,
    )


def int8_duet(threads: int = 1) -> LatencyReport:
    """Time the INT8 product against the FP32 one, in a few seconds of alternating calls.

    Raises MeasurementError when ONNX Runtime cannot run them.
    """
    models = {name: MODELS / file for name, file in _DUET.items()}
    # Fewer rows than for the peak: a board needs less time, and both sides the same.
    protocol = Protocol(threads=threads, batch=256, processes=5, rounds=30, primers=1)
    return measure(models, baseline="float32", protocol=protocol, same_inputs=False)


def array_bytes(cache: int | None, available: int | None) -> int:
    """Return how large each of the three arrays is, in bytes.

    Twice the ``cache``, so that a pass finds nothing of the pass before in it, and 64 MiB at least;
    but never so large that they take more than three eighths of the ``available`` memory.
    """
    wanted = max(_LEAST_ARRAY, 2 * (cache or 0))
    most = wanted if available is None else available // _SHARE
    return max(2**20, min(wanted, most)) // 8 * 8


def _products(cpu: Cpu, threads: int) -> LatencyReport:
    models = {name: Variant(MODELS / file) for name, file in _DUET.items()}
    bf16 = Variant(MODELS / _DUET["float32"], "openvino", "bf16")
    if cpu.bf16_flags and installed_version("openvino"):
        try:
            return _time({**models, "bfloat16": bf16}, threads)
        except MeasurementError:
            pass  # not every build of OpenVINO computes in bf16 where the processor could
    return _time(models, threads)


def _time(models: Mapping[str, Variant], threads: int) -> LatencyReport:
    # Many short calls over some seconds: one of them is left alone on a machine with other work.
    protocol = Protocol(threads=threads, batch=_ROWS, processes=8, rounds=25, primers=1)
    return measure(models, baseline="float32", protocol=protocol, same_inputs=False)


def _fastest(model: ModelLatency) -> tuple[float, float]:
    """Return the rate of the fastest call, and by what share the worst process stays below it."""
    best_ms = [min(process) for process in model.samples_ms]
    return _ROWS * SIZE * SIZE / min(best_ms) / 1e6, 1 - min(best_ms) / max(best_ms)


def _node_us(threads: int) -> float:
    paths = {name: str(MODELS / f"overhead_{name}.onnx") for name in ("few", "many")}
    job = {"layers": [{**paths, "copies": _NODES}], "threads": threads}
    answer = run_worker("edgekd.bench.layer_worker", job, timeout_s=300)
    return float(answer["microseconds"][0])
