"""Recorded file trees of boards: the files that `edgekd doctor` and `targets probe` read there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Write ``files`` (path -> text) under ``root``."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def package(name: str, version: str, status: str = "install ok installed") -> str:
    """Return dpkg's paragraph of a package."""
    return (
        f"Package: {name}\nStatus: {status}\nArchitecture: arm64\nVersion: {version}\n"
        "Description: one line\n and one more: with a colon\n"
    )


def orin_nano(root: Path) -> Path:
    """Jetson Orin Nano 8GB Super with JetPack 6.2, fresh from the installer, in its 25 W mode."""
    packages = [
        package("libnvinfer10", "10.3.0.30-1+cuda12.5"),
        package("tensorrt", "10.3.0.30-1+cuda12.5"),
        package("nvidia-jetpack", "6.2+b77"),
        package("cuda-cudart-12-6", "12.6.68-1"),
        package("libnvinfer8", "8.6.2.3-1", "deinstall ok config-files"),
    ]
    modes = ((0, "15W"), (1, "25W"), (2, "MAXN_SUPER"), (3, "7W"))
    blocks = [
        f"< POWER_MODEL ID={number} NAME={name} >\nCPU_ONLINE CORE_0 1" for number, name in modes
    ]
    device = "sys/class/devfreq/17000000.gpu"
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    write(
        root,
        {
            "proc/device-tree/model": (
                "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0"
            ),
            "proc/meminfo": "MemTotal:        7802844 kB\nMemAvailable:    6012340 kB\n",
            "etc/nv_tegra_release": (
                "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
                "DATE: Wed Jan  8 01:49:37 UTC 2025\n"
            ),
            "etc/nvpmodel.conf": (
                "< PARAM TYPE=FILE NAME=CPU_ONLINE >\n" + "\n\n".join(blocks) + "\n\n"
                "< PM_CONFIG DEFAULT=1 >\n"
            ),
            "etc/nvfancontrol.conf": "<FAN 1>\n\tFAN_DEFAULT_CONTROL close_loop\n"
            "\tFAN_DEFAULT_PROFILE quiet\n",
            "var/lib/nvpmodel/status": "pmode:0001",
            "var/lib/dpkg/status": "\n".join(packages),
            "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": "",
            f"{device}/min_freq": "306000000\n",
            f"{device}/max_freq": "918000000\n",
            f"{policy}/scaling_governor": "schedutil\n",
            f"{policy}/scaling_min_freq": "729600\n",
            f"{policy}/scaling_max_freq": "1344000\n",
        },
    )
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/python3").symlink_to("python3.10")
    return root


def xavier_nx(root: Path) -> Path:
    """Jetson Xavier NX with JetPack 5.1, fixed clocks and nvpmodel's answer instead of its file."""
    packages = [
        package("libnvinfer8", "8.5.2-1+cuda11.4"),
        package("nvidia-jetpack", "5.1-b147"),
        package("cuda-cudart-11-4", "11.4.298-1"),
    ]
    device = "sys/class/devfreq/17000000.gv11b"
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    write(
        root,
        {
            "proc/device-tree/model": "NVIDIA Jetson Xavier NX Developer Kit\0",
            "proc/meminfo": "MemTotal:        6852000 kB\n",
            "etc/nv_tegra_release": (
                "# R35 (release), REVISION: 2.1, GCID: 32413640, BOARD: t186ref, EABI: aarch64, "
                "DATE: Tue Jan 24 23:38:33 UTC 2023\n"
            ),
            "etc/nvpmodel.conf": (
                "< POWER_MODEL ID=0 NAME=MODE_15W_2CORE >\n"
                "< POWER_MODEL ID=5 NAME=MODE_10W_DESKTOP >\n"
                "< POWER_MODEL ID=6 NAME=MODE_20W_2CORE >\n"
                "< POWER_MODEL ID=8 NAME=MODE_20W_6CORE >\n"
            ),
            "usr/sbin/nvpmodel": "#!/bin/sh\necho 'NV Power Mode: MODE_20W_6CORE'\necho 8\n",
            "var/lib/dpkg/status": "\n".join(packages),
            "usr/lib/python3.8/dist-packages/tensorrt/__init__.py": "",
            f"{device}/min_freq": "1109250000\n",
            f"{device}/max_freq": "1109250000\n",
            f"{policy}/scaling_governor": "schedutil\n",
            f"{policy}/scaling_min_freq": "1907200\n",
            f"{policy}/scaling_max_freq": "1907200\n",
        },
    )
    (root / "usr/sbin/nvpmodel").chmod(0o755)
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/python3").symlink_to("python3.8")
    return root


def raspberry_pi_5(root: Path, throttled: str = "50000") -> Path:
    """Raspberry Pi 5 whose power supply was too weak for a moment."""
    firmware = "sys/devices/platform/soc/soc:firmware"
    return write(
        root,
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/meminfo": "MemTotal:        8245248 kB\nMemAvailable:    7500000 kB\n",
            f"{firmware}/get_throttled": f"{throttled}\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "ondemand\n",
            "sys/devices/system/cpu/cpu0/cache/index0/level": "1\n",
            "sys/devices/system/cpu/cpu0/cache/index0/type": "Data\n",
            "sys/devices/system/cpu/cpu0/cache/index0/size": "64K\n",
            "sys/devices/system/cpu/cpu0/cache/index3/level": "3\n",
            "sys/devices/system/cpu/cpu0/cache/index3/type": "Unified\n",
            "sys/devices/system/cpu/cpu0/cache/index3/size": "2048K\n",
        },
    )


def laptop(root: Path) -> Path:
    """An x86 laptop on battery, in a container with one and a half processors."""
    cpu = "sys/devices/system/cpu"
    return write(
        root,
        {
            "proc/meminfo": "MemTotal:       16000000 kB\nMemAvailable:   12000000 kB\n",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": "1073741824\n",
            f"{cpu}/cpufreq/policy0/scaling_governor": "powersave\n",
            f"{cpu}/cpufreq/policy1/scaling_governor": "powersave\n",
            f"{cpu}/intel_pstate/no_turbo": "0\n",
            f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "3\n",
            f"{cpu}/cpu1/thermal_throttle/core_throttle_count": "7\n",
        },
    )
