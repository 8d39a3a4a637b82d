"""An aarch64 Debian userland with Python, numpy and onnxruntime, under QEMU, without root.

``qemu-aarch64`` runs single programs of another processor (user mode): the kernel is the host's,
the instructions are those of the processor that ``-cpu`` names, so a kernel that needs what a
Cortex-A72 has not ends with SIGILL as it would on the board. It says nothing about speed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

# Processor -> its number in /proc/cpuinfo and the features that Linux names there.
CPUS: Mapping[str, tuple[str, str]] = {
    # Raspberry Pi 4: ARMv8.0 without the cryptographic extension
    "cortex-a72": ("0xd08", "fp asimd evtstrm crc32 cpuid"),
    # Raspberry Pi 5: ARMv8.2 with dot products and half precision
    "cortex-a76": (
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc "
        "dcpop asimddp",
    ),
}
_DEBS = ("python3-minimal:arm64", "libpython3-stdlib:arm64", "libstdc++6:arm64")
_QEMU = "qemu-aarch64-static"
_WHEELS = ("numpy", "onnxruntime")
# manylinux_2_27 and 2_28 are what the wheels of both are built for.
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_CORES = 4


class MachineError(Exception):
    """The machine cannot be set up; one line says why."""


class Machine:
    """The userland in ``folder``; set up there on first use (about 160 MB to download)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Another version of the libraries here is another machine there.
        versions = "-".join(f"{name}{version(name)}" for name in _WHEELS)
        self._root = folder / versions
        if not (self._root / "complete").is_file():
            self._set_up()

    def run(self, cpu: str, script: Path, *arguments: str, path: Sequence[Path] = ()) -> None:
        """Run a Python script on ``cpu``, a key of ``CPUS``; raises MachineError if it fails."""
        _write_cpuinfo(self._root / "system", cpu)
        folders = [str(self._root / "site"), *map(str, path)]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LD_")},
            "PYTHONPATH": os.pathsep.join(folders),
            "PYTHONNOUSERSITE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [
            *(str(_qemu(self._root)), "-cpu", cpu, "-L", str(self._root / "system")),
            *(str(_python(self._root)), str(script), *arguments),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise MachineError(f"{script.name} on {cpu}: {last}")

    def _set_up(self) -> None:
        missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
        if missing:
            raise MachineError(f"needs {' and '.join(missing)}, that is Debian or Ubuntu")
        partial = self.folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for deb in _download_debs(partial / "apt"):
            if deb.name.startswith("qemu-"):  # it has one program for each processor there is
                _run("dpkg-deb", "-x", str(deb), str(partial / "apt" / "qemu"))
                shutil.move(partial / "apt" / "qemu" / "usr" / "bin" / _QEMU, partial / _QEMU)
            else:
                _run("dpkg-deb", "-x", str(deb), str(partial / "system"))
        _download_wheels(partial)
        shutil.rmtree(partial / "apt")
        (partial / "complete").touch()
        shutil.rmtree(self._root, ignore_errors=True)
        partial.replace(self._root)


def _download_debs(folder: Path) -> list[Path]:
    """Download QEMU for this machine, Python and the C++ library for aarch64.

    apt works in ``folder`` alone, with the system's sources and keys. It believes that nothing is
    installed, so it fetches every dependency.
    """
    native = _run("dpkg", "--print-architecture").strip()
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    settings = {
        "APT::Architecture": native,
        "APT::Architectures": f"{native},arm64",
        "APT::Get::AllowUnauthenticated": "false",
        "APT::Sandbox::User": "",  # a folder of the user's is not apt's own user's
        "Debug::NoLocking": "true",  # nothing of the system is written, so nobody need wait
        "Dir::State::Lists": str(folder / "lists"),
        "Dir::State::status": str(folder / "status"),
        "Dir::Cache": str(folder / "cache"),
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    _run("apt-get", "-q", *options, "update")
    _run(
        *("apt-get", "-q", "-y", *options, "install", "--download-only"),
        *("--no-install-recommends", *_DEBS, *(() if _installed_qemu() else ("qemu-user-static",))),
    )
    # What QEMU itself needs is linked into it; anything else for this machine is not wanted.
    found = sorted((folder / "cache" / "archives").glob("*.deb"))
    return [deb for deb in found if deb.stem.endswith(("arm64", "all")) or "qemu-" in deb.name]


def _download_wheels(root: Path) -> None:
    """Unpack the versions of numpy and onnxruntime that are installed here, for aarch64."""
    python = _python(root).name.removeprefix("python")
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    _run(
        *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:"),
        *("--disable-pip-version-check", "--no-compile", "--target", str(root / "site")),
        *("--python-version", python, "--implementation", "cp", *platforms),
        *(f"{name}=={version(name)}" for name in _WHEELS),
    )


def _python(root: Path) -> Path:
    found = sorted((root / "system" / "usr" / "bin").glob("python3.[0-9]*"))
    if not found:
        raise MachineError("the packages for aarch64 have no Python")
    return found[0]


def _installed_qemu() -> str | None:
    return shutil.which(_QEMU) or shutil.which("qemu-aarch64")


def _qemu(root: Path) -> Path:
    return Path(_installed_qemu() or root / _QEMU)


def _write_cpuinfo(system: Path, cpu: str) -> None:
    """Let onnxruntime find the processor: QEMU looks below ``system`` before it asks the host."""
    part, features = CPUS[cpu]
    fields = {
        "BogoMIPS": "108.00",
        "Features": features,
        "CPU implementer": "0x41",
        "CPU architecture": "8",
        "CPU variant": "0x0",
        "CPU part": part,
        "CPU revision": "3",
    }
    text = "".join(f"{name}\t: {value}\n" for name, value in fields.items())
    (system / "proc").mkdir(exist_ok=True)
    cores = [f"processor\t: {core}\n{text}\n" for core in range(_CORES)]
    (system / "proc" / "cpuinfo").write_text("".join(cores))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        last = next((line for line in lines if line.startswith(("E:", "ERROR"))), lines[-1:])
        raise MachineError(f"{command[0]} on {platform.machine()} failed: {last}")
    return done.stdout
