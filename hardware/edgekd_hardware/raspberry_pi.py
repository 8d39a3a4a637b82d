"""What a Raspberry Pi says about its power supply and its heat.

The bits are those of ``vcgencmd get_throttled`` (Raspberry Pi documentation, "Raspberry Pi OS",
section "vcgencmd"): 0 to 3 hold now, 16 to 19 have held since the start.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from edgekd_hardware.board_tools import FLAGS
from edgekd_hardware.findings import Finding
from edgekd_hardware.system import ROOT, board_model, read_text


def is_raspberry_pi(root: Path = ROOT) -> bool:
    """Tell whether this is one."""
    return (board_model(root) or "").startswith("Raspberry Pi")


def throttle_flags(root: Path = ROOT) -> int | None:
    """Return the bits; None where neither the kernel nor ``vcgencmd`` tells them."""
    platform = root / "sys/devices/platform"
    for pattern in ("soc*/soc*:firmware/get_throttled", "soc*:firmware/get_throttled"):
        for path in platform.glob(pattern):
            return _bits(read_text(path))
    tool = root / "usr/bin/vcgencmd"
    if not tool.is_file():
        return None
    try:
        done = subprocess.run(
            [str(tool), "get_throttled"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _bits(done.stdout.strip().removeprefix("throttled="))


def findings(root: Path = ROOT) -> tuple[Finding, ...]:
    """Say whether power supply or heat hold the processor back, now or since the start."""
    if not is_raspberry_pi(root):
        return ()
    flags = throttle_flags(root)
    if flags is None:
        advice = "sudo apt install libraspberrypi-bin, or run as a member of the group video"
        return (Finding("throttling", "note", "vcgencmd does not tell it", advice),)
    now, before = _names(flags), _names(flags >> 16)
    if not (now or before):
        return (Finding("throttling", "ok", "none since the start"),)
    value = f"now: {', '.join(now)}" if now else f"since the start: {', '.join(before)}"
    low_power = "under-voltage" in (*now, *before)
    cause = "use the board's own power supply" if low_power else "fit a heat sink or a fan"
    advice = f"{cause}, start again, and measure then: these times are not the board's"
    return (Finding("throttling", "note", value, advice),)


def _bits(text: str | None) -> int | None:
    try:
        return None if text is None else int(text, 16)
    except ValueError:
        return None


def _names(flags: int) -> list[str]:
    return [name for bit, name in FLAGS.items() if flags >> bit & 1]
