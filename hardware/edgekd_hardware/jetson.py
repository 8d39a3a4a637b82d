"""Which Jetson this is, what JetPack is on it, and its power modes."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgekd.device import PowerMode
from edgekd_hardware.debian import installed_packages
from edgekd_hardware.system import ROOT, board_model, read_text

# The first line of /etc/nv_tegra_release -> JetPack, as NVIDIA's JetPack archive lists them,
# https://developer.nvidia.com/embedded/jetpack-archive
JETPACK_OF_LINUX = {
    "32.7.1": "4.6.1",
    "32.7.2": "4.6.2",
    "32.7.3": "4.6.3",
    "32.7.4": "4.6.4",
    "32.7.5": "4.6.5",
    "32.7.6": "4.6.6",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}


@dataclass(frozen=True)
class Jetson:
    """A board as it was found. Versions are None where nothing tells them.

    ``linux`` is NVIDIA's Jetson Linux (L4T), which is flashed; ``jetpack`` follows from it, and
    ``jetpack_package`` is what apt has installed on top. ``python`` is the system's, for which
    JetPack's TensorRT module is built; ``bindings`` are the Pythons that have that module.
    ``power_mode`` is the number of the mode in use, one of ``power_modes``.
    """

    model: str
    linux: str | None
    jetpack: str | None
    jetpack_package: str | None
    tensorrt: str | None
    cuda: str | None
    python: str | None
    bindings: tuple[str, ...]
    power_modes: tuple[PowerMode, ...]
    power_mode: int | None
    fan_profile: str | None


def read_jetson(root: Path = ROOT) -> Jetson | None:
    """Return the board, None on other machines."""
    release = read_text(root / "etc/nv_tegra_release")
    model = board_model(root) or ""
    if release is None and "Jetson" not in model:
        return None
    packages = installed_packages(root)
    linux = _linux(release or "")
    package = _plain(packages.get("nvidia-jetpack"))
    return Jetson(
        model=model or "NVIDIA Jetson",
        linux=linux,
        jetpack=JETPACK_OF_LINUX.get(linux or "") or package,
        jetpack_package=package,
        tensorrt=_tensorrt(packages),
        cuda=_cuda(packages),
        python=_system_python(root),
        bindings=_bindings(root),
        power_modes=_power_modes(root),
        power_mode=_power_mode(root),
        fan_profile=_fan_profile(root),
    )


def strongest(modes: tuple[PowerMode, ...]) -> PowerMode | None:
    """Return the mode without a limit, else the one with most watts and cores; None without."""
    free = [mode for mode in modes if mode.name.upper().startswith("MAXN")]
    limited = [mode for mode in modes if mode.watts is not None]
    return free[0] if free else max(limited, key=_strength, default=None)


def _strength(mode: PowerMode) -> tuple[float, int]:
    cores = re.search(r"(\d+)_?CORE", mode.name)
    return mode.watts or 0.0, int(cores[1]) if cores else 0


def _linux(release: str) -> str | None:
    found = re.search(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", release)
    if not found:
        return None
    revision = found[2] if "." in found[2] else f"{found[2]}.0"
    return f"{found[1]}.{revision}"


def _plain(version: str | None) -> str | None:
    """Return ``6.2`` of ``6.2+b77``, and ``10.3.0.30`` of ``10.3.0.30-1+cuda12.5``."""
    found = re.match(r"\d+(\.\d+)*", version or "")
    return found[0] if found else None


def _tensorrt(packages: dict[str, str]) -> str | None:
    libraries = [name for name in packages if re.fullmatch(r"libnvinfer\d+", name)]
    names = ["tensorrt", *sorted(libraries, key=lambda name: int(name[10:]), reverse=True)]
    return next((_plain(packages[name]) for name in names if name in packages), None)


def _cuda(packages: dict[str, str]) -> str | None:
    found = (re.fullmatch(r"cuda-cudart-(\d+)-(\d+)", name) for name in packages)
    versions = [(int(match[1]), int(match[2])) for match in found if match]
    return "{}.{}".format(*max(versions)) if versions else None


def _system_python(root: Path) -> str | None:
    path = root / "usr/bin/python3"
    found = re.fullmatch(r"python(3\.\d+)", path.readlink().name) if path.is_symlink() else None
    return found[1] if found else None


def _bindings(root: Path) -> tuple[str, ...]:
    folders = (root / "usr/lib").glob("python3*/dist-packages/tensorrt")
    return tuple(sorted(folder.parts[-3].removeprefix("python") for folder in folders))


def _power_modes(root: Path) -> tuple[PowerMode, ...]:
    text = read_text(root / "etc/nvpmodel.conf") or ""
    modes = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", text, re.MULTILINE)
    return tuple(PowerMode(id=int(number), name=name, watts=_watts(name)) for number, name in modes)


def _watts(name: str) -> float | None:
    found = re.search(r"(\d+)W", name)
    return float(found[1]) if found else None


def _power_mode(root: Path) -> int | None:
    """Return the number that nvpmodel keeps on disk, else what it answers."""
    kept = re.search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status") or "")
    if kept:
        return int(kept[1])
    tool = root / "usr/sbin/nvpmodel"
    if not tool.is_file():
        return None
    try:
        done = subprocess.run(
            [str(tool), "-q"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"^(\d+)$", done.stdout, re.MULTILINE)
    return int(found[1]) if found else None


def _fan_profile(root: Path) -> str | None:
    text = read_text(root / "etc/nvfancontrol.conf") or ""
    found = re.search(r"^\s*FAN_DEFAULT_PROFILE\s+(\w+)", text, re.MULTILINE)
    return found[1] if found else None
