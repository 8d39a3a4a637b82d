"""What a container lets this process use: Linux's control groups, version 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgekd_hardware.findings import Finding
from edgekd_hardware.system import ROOT, read_number, read_text

_UNLIMITED = 2**60  # version 1 writes a number near 2^63 where there is no limit


def cpu_limit(root: Path = ROOT) -> float | None:
    """Return how many processors' time this process may use; None without a limit."""
    limits = []
    for folder in _folders(root, "cpu"):
        quota, period = (read_text(folder / "cpu.max") or "max 100000").split()[:2]
        if quota != "max":
            limits.append(int(quota) / int(period))
        old, period_us = (
            read_number(folder / f"cpu.cfs_{what}_us") for what in ("quota", "period")
        )
        if old is not None and period_us and old > 0:
            limits.append(old / period_us)
    return min(limits, default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Return the bytes that this process may use; None without a limit."""
    limits = []
    for folder in _folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = read_number(folder / name)  # "max" is no number
            if limit is not None and limit < _UNLIMITED:
                limits.append(limit)
    return min(limits, default=None)


def findings(cores: int, root: Path = ROOT) -> tuple[Finding, ...]:
    """Say when a container's share of processor time is smaller than ``cores``."""
    limit = cpu_limit(root)
    if limit is None or limit >= cores:
        return ()
    advice = (
        "the kernel stops a process that has used its share, so times jump; measure outside the "
        f"container, or with at least --cpus={cores}"
    )
    return (Finding("CPU limit", "note", f"{limit:g} of {cores} cores by cgroup", advice),)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of the groups around it."""
    mounted = root / "sys/fs/cgroup"
    for line in (read_text(root / "proc/self/cgroup") or "0::/").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        top = mounted / controller if names else mounted
        # Inside a container the path may be the host's, which is not there: its top folder is.
        here = top / path.lstrip("/")
        yield from (folder for folder in (here, *here.parents) if folder.is_relative_to(top))
