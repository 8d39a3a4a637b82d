"""What a board's clocks, temperatures, power mode and throttle flags are, read from Linux.

``python -m edgekd_hardware.board_state`` prints the machine's fingerprint and its state as JSON.
It runs on the board: standard library only, Python 3.8. Nothing here needs root, and whatever a
board does not have is left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.bench.machine import fingerprint
from edgekd_hardware import board_tools

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT_VARIABLE = "EDGEKD_SYSTEM_ROOT"
"""Environment variable: where the board's ``/sys`` lies, for containers that mount it elsewhere."""

_CORE = re.compile(r"cpu\d+$")
# Cooling devices that make a processor slower. The others are fans and displays, or count in ways
# of their own: Intel's powerclamp is -1 at rest, its TCC offset is a setting.
_SLOWS = re.compile(r"cpu|processor|gpu|devfreq|throttle|ga10b|gv11b|gp10b", re.IGNORECASE)
_TOOL_TIMEOUT_S = 10


def main() -> int:
    """Print fingerprint and state; return the exit code."""
    sys.stdout.write(json.dumps({"machine": fingerprint(), "state": read_state()}))
    return 0


def system_root() -> Path:
    """Return ``/``, or what ``EDGEKD_SYSTEM_ROOT`` says."""
    return Path(os.environ.get(ROOT_VARIABLE) or "/")


def read_state(root: Path | None = None) -> dict[str, Any]:
    """Return ``read_sample`` and what takes a process to ask: plain data, empty parts left out.

    ``power_mode`` is a Jetson's; ``tegrastats`` has its clocks (MHz) and power (mW);
    ``firmware`` also has the clock that a Raspberry Pi's firmware really gives (``arm_mhz``).
    """
    state = read_sample(root)
    firmware: dict[str, Any] = {
        **state.get("firmware", {}),
        **board_tools.throttle_flags(_ask("vcgencmd", "get_throttled")),
    }
    clock = board_tools.firmware_clock(_ask("vcgencmd", "measure_clock", "arm"))
    if clock is not None:
        firmware["arm_mhz"] = clock
    found = {
        "power_mode": board_tools.power_mode(_ask("nvpmodel", "-q")),
        "tegrastats": board_tools.tegrastats(_first_line("tegrastats", "--interval", "200")),
        "firmware": firmware,
    }
    state.update((name, value) for name, value in found.items() if value)
    return state


def read_sample(root: Path | None = None) -> dict[str, Any]:
    """Return what ``/sys`` tells at once: plain data, empty parts left out.

    ``clocks_mhz`` and ``max_clocks_mhz``: of each core now, and what it may reach under the
    present limits; ``governors``: the names in use; ``temperatures_c``: by sensor;
    ``cooling``: name -> state of whatever slows a processor down, 0 at rest;
    ``counters``: name -> how often the hardware throttled; ``firmware``: the names of a Raspberry
    Pi's throttle flags now (``flags``) and since the last boot (``since_boot``), where the kernel
    tells them.
    """
    base = (root or system_root()) / "sys"
    clocks, limits, governors = _clocks(base / "devices/system/cpu")
    state = {
        "clocks_mhz": clocks,
        "max_clocks_mhz": limits,
        "governors": governors,
        "temperatures_c": _temperatures(base / "class/thermal"),
        "cooling": _cooling(base / "class/thermal"),
        "counters": _counters(base),
        "firmware": _firmware(base / "devices/platform"),
    }
    return {name: value for name, value in state.items() if value}


def _clocks(cpus: Path) -> tuple[list[float], list[float], list[str]]:
    clocks, limits, governors = [], [], set()
    for core in sorted(_entries(cpus), key=_number):
        if not _CORE.match(core.name):
            continue
        now = _integer(core / "cpufreq/scaling_cur_freq")
        limit = _integer(core / "cpufreq/scaling_max_freq")
        governor = _text(core / "cpufreq/scaling_governor")
        clocks += [] if now is None else [now / 1e3]
        limits += [] if limit is None else [limit / 1e3]
        governors |= {governor} if governor else set()
    return clocks, limits, sorted(governors)


def _temperatures(thermal: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for zone in sorted(_entries(thermal), key=_number):
        value = _integer(zone / "temp") if zone.name.startswith("thermal_zone") else None
        if value is not None and -40_000 < value < 200_000:  # Jetsons give -256 C for "off"
            found[_unused(_text(zone / "type") or zone.name, found)] = value / 1e3
    return found


def _cooling(thermal: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for device in sorted(_entries(thermal), key=_number):
        kind = _text(device / "type") if device.name.startswith("cooling_device") else ""
        value = _integer(device / "cur_state")
        if kind and value is not None and _SLOWS.search(kind) and "fan" not in kind.lower():
            found[_unused(kind, found)] = value
    return found


def _counters(base: Path) -> dict[str, int]:
    """Return x86's counts of throttling, and a Jetson's of too much current."""
    cpu = base / "devices/system/cpu"
    files = [(f"{core.name} {name}", core / "thermal_throttle" / f"{name}_throttle_count")
             for core in sorted(_entries(cpu), key=_number) if _CORE.match(core.name)
             for name in ("core", "package")]  # fmt: skip
    for monitor in sorted(_entries(base / "class/hwmon"), key=_number):
        files += [(file.stem, file) for file in sorted(monitor.glob("oc*_event_cnt"))]
    found = {name: _integer(file) for name, file in files}
    return {name: value for name, value in found.items() if value is not None}


def _firmware(platform: Path) -> dict[str, Any]:
    for pattern in ("soc*/soc*:firmware/get_throttled", "soc*:firmware/get_throttled"):
        for path in platform.glob(pattern):
            return board_tools.throttle_flags(_text(path))
    return {}


def _unused(name: str, taken: dict[str, Any]) -> str:
    """Return ``name``, with a number where several sensors have the same."""
    number, found = 2, name
    while found in taken:
        found, number = f"{name} {number}", number + 1
    return found


def _entries(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from folder.iterdir()


def _number(path: Path) -> tuple[str, int]:
    """Sort ``cpu10`` behind ``cpu9``."""
    digits = re.search(r"\d+$", path.name)
    return (path.name[: digits.start()], int(digits.group())) if digits else (path.name, -1)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:  # not there, not ours to read, or a sensor that is off
        return ""


def _integer(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _ask(program: str, *arguments: str) -> str:
    """Return what a program of the board prints, empty where it is missing or fails."""
    found = shutil.which(program, path=_search_path())
    if found is None:
        return ""
    try:
        return subprocess.run(
            [found, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            timeout=_TOOL_TIMEOUT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _first_line(program: str, *arguments: str) -> str:
    """Return the first line of a program that prints for ever, then end it."""
    found = shutil.which(program, path=_search_path())
    if found is None:
        return ""
    try:
        running = subprocess.Popen(
            # timeout: reading has no limit of its own
            ["timeout", str(_TOOL_TIMEOUT_S), found, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
    except OSError:
        return ""
    with running:
        assert running.stdout is not None
        line = running.stdout.readline()
        running.terminate()
    return line


def _search_path() -> str:
    """Return PATH and where systems keep such tools: ssh's own PATH is often a short one."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/sbin", "/bin"])


if __name__ == "__main__":
    sys.exit(main())
