"""The bound that arithmetic and memory set to a kernel, and which of the two it is.

The roofline model of Williams et al. (CACM 52(4), 2009), and a constant for the launch: a kernel
cannot be faster than its arithmetic at the peak rate, nor than its data at the memory's rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.device import Arithmetic, DeviceProfile
from edgekd.errors import ProfileError
from edgekd.predict.kernel import Kernel

Limit = Literal["arithmetic", "memory", "overhead"]

# What stands in where a profile has no rate of an arithmetic: the next wider one that it has.
WIDER: Mapping[str, tuple[Arithmetic, ...]] = {
    "int8": ("float16", "tf32", "float32"),
    "float16": ("bfloat16", "tf32", "float32"),
    "bfloat16": ("float16", "tf32", "float32"),
    "float32": ("tf32",),
}


@dataclass(frozen=True)
class Roofline:
    """``peak_gmacs`` by arithmetic, ``memory_gb_per_s``, and ``overhead_us`` of one launch."""

    peak_gmacs: Mapping[str, float]
    memory_gb_per_s: float
    overhead_us: float

    def microseconds(self, kernel: Kernel) -> float:
        """Return the time of one launch."""
        return max(self._arithmetic_us(kernel), self._memory_us(kernel)) + self.overhead_us

    def limit(self, kernel: Kernel) -> Limit:
        """Return what takes most of that time."""
        arithmetic, memory = self._arithmetic_us(kernel), self._memory_us(kernel)
        if max(arithmetic, memory) < self.overhead_us:
            return "overhead"
        return "arithmetic" if arithmetic >= memory else "memory"

    def missing(self, kernels: Sequence[Kernel]) -> list[str]:
        """Say which rates had to be replaced by others."""
        used = {kernel.arithmetic for kernel in kernels if kernel.macs}
        absent = sorted(name for name in used if name not in self.peak_gmacs)
        return [
            f"no peak rate of {name}: counted at that of {self._stand_in(name)}" for name in absent
        ]

    def _stand_in(self, arithmetic: str) -> str:
        candidates = (arithmetic, *WIDER.get(arithmetic, ()))
        known = [name for name in candidates if name in self.peak_gmacs]
        return known[0] if known else next(iter(self.peak_gmacs))

    def _arithmetic_us(self, kernel: Kernel) -> float:
        return kernel.macs / self.peak_gmacs[self._stand_in(kernel.arithmetic)] / 1e3

    def _memory_us(self, kernel: Kernel) -> float:
        # A view copies nothing where the runtime can hand its memory on.
        return 0.0 if kernel.kind == "view" else kernel.moved / self.memory_gb_per_s / 1e3


def from_profile(profile: DeviceProfile) -> Roofline:
    """Return the roofline of the profile's figures. Raises ProfileError when it has none."""
    wanted = ("peak_gmacs", "memory_gb_per_s", "layer_overhead_us")
    absent = [name for name in wanted if getattr(profile, name) is None]
    if absent:
        here = (
            ", or measure this machine with edgekd targets calibrate"
            if profile.runtime == "onnxruntime"
            else ""
        )
        raise ProfileError(
            f"nothing can be predicted for {profile.name}: its profile has no {', '.join(absent)}; "
            f"add them to a YAML file of your own{here}"
        )
    peaks = {str(name): rate for name, rate in (profile.peak_gmacs or {}).items()}
    return Roofline(peaks, profile.memory_gb_per_s or 1.0, profile.layer_overhead_us or 0.0)


def from_times(kernels: Sequence[Kernel], times_us: NDArray[np.float64]) -> Roofline:
    """Return the roofline of the best rates that were measured."""
    times = times_us
    peaks = {}
    for name in sorted({kernel.arithmetic for kernel in kernels}):
        rates = [
            k.macs / t / 1e3
            for k, t in zip(kernels, times, strict=True)
            if k.arithmetic == name and k.macs > 1e5
        ]
        if rates:
            peaks[name] = float(np.percentile(rates, 98))
    moving = [
        k.moved / t / 1e3
        for k, t in zip(kernels, times, strict=True)
        if not k.macs and k.kind != "view" and k.moved > 1e5
    ]
    memory = float(np.percentile(moving, 98)) if moving else 10.0
    return Roofline(peaks or {"float32": 10.0}, memory, float(np.percentile(times, 5)))
