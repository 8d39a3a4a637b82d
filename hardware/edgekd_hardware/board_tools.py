"""What the tools of Jetsons and Raspberry Pis print, as data. Pure functions; Python 3.8."""

from __future__ import annotations

import re
from typing import Any

# Bits of ``vcgencmd get_throttled`` (Raspberry Pi documentation, "vcgencmd"). The same bits, 16
# places further up, mean that it has happened since the last boot.
FLAGS = {
    0: "under-voltage",
    1: "clock capped",
    2: "throttled",
    3: "soft temperature limit",
}
_SINCE_BOOT = 16

_CPU = re.compile(r"\bCPU \[([^\]]*)\]")
_GPU = re.compile(r"\bGR3D_FREQ \d+%(?:@\[?(\d+))?")
_MEMORY = re.compile(r"\bEMC_FREQ \d+%@(\d+)")
_TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b")
_POWER = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?= |$)")


def throttle_flags(text: str) -> dict[str, Any]:
    """Read ``throttled=0x50005`` of vcgencmd, or ``50005`` as the kernel writes it.

    Returns the names of ``flags`` now, and of those ``since_boot``; empty for other text.
    """
    found = re.match(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]+)\s*$", text)
    if found is None:
        return {}
    bits = int(found.group(1), 16)
    return {
        "flags": [name for bit, name in FLAGS.items() if bits >> bit & 1],
        "since_boot": [name for bit, name in FLAGS.items() if bits >> (bit + _SINCE_BOOT) & 1],
    }


def firmware_clock(text: str) -> float | None:
    """Read ``frequency(48)=1500345728`` (in Hz) of ``vcgencmd measure_clock arm`` as MHz."""
    found = re.search(r"frequency\(\d+\)=(\d+)", text)
    return None if found is None else round(int(found.group(1)) / 1e6, 1)


def power_mode(text: str) -> str:
    """Return the mode that ``nvpmodel -q`` names, empty for other text."""
    found = re.search(r"NV Power Mode: *(\S.*)", text)
    return "" if found is None else found.group(1).strip()


def tegrastats(line: str) -> dict[str, Any]:
    """Read one line of ``tegrastats`` of JetPack 4 to 6; what it does not show is left out.

    ``cpu_mhz``: of the cores that are on; ``gpu_mhz``; ``memory_mhz``; ``temperatures_c``;
    ``power_mw``: by rail, at this moment.
    """
    cores = _CPU.search(line)
    gpu, memory = _GPU.search(line), _MEMORY.search(line)
    temperatures = {name: float(value) for name, value in _TEMPERATURE.findall(line)}
    found = {
        "cpu_mhz": [int(mhz) for mhz in re.findall(r"%@(\d+)", cores.group(1))] if cores else [],
        "gpu_mhz": int(gpu.group(1)) if gpu and gpu.group(1) else None,
        "memory_mhz": int(memory.group(1)) if memory else None,
        # -256 C is a sensor whose part is switched off
        "temperatures_c": {name: value for name, value in temperatures.items() if value > -40},
        "power_mw": {
            name: int(now)
            for name, now, _ in _POWER.findall(line)
            if name not in ("RAM", "SWAP", "IRAM")
        },
    }
    return {name: value for name, value in found.items() if value}
