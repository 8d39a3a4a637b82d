"""How much memory there is, and how large the processor's caches are."""

from __future__ import annotations

import re
from pathlib import Path

from edgekd_hardware.limits import memory_limit
from edgekd_hardware.system import ROOT, read_number, read_text

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def total_bytes(root: Path = ROOT) -> int | None:
    """Return the memory that the system manages: what the board has less what firmware keeps."""
    return _meminfo(root, "MemTotal")


def available_bytes(root: Path = ROOT) -> int | None:
    """Return what can be taken without swapping, within a container's limit."""
    known = [_meminfo(root, "MemAvailable"), memory_limit(root)]
    return min((value for value in known if value is not None), default=None)


def last_level_cache(root: Path = ROOT) -> int | None:
    """Return the bytes of the largest cache of the first core; None where Linux does not say."""
    found: dict[int, int] = {}
    for cache in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level = read_number(cache / "level")
        size = re.fullmatch(r"(\d+)([KMG])", read_text(cache / "size") or "")
        if level is not None and size and read_text(cache / "type") != "Instruction":
            found[level] = int(size[1]) * _UNITS[size[2]]
    return found[max(found)] if found else None


def _meminfo(root: Path, field: str) -> int | None:
    text = read_text(root / "proc/meminfo") or ""
    line = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(line[1]) * 1024 if line else None
