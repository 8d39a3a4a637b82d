"""Clocks, throttling, memory and container limits, read from recorded trees."""

from __future__ import annotations

from pathlib import Path

import boards
import pytest
from edgekd_hardware import clocks, limits, memory, raspberry_pi
from edgekd_hardware.doctor import machine_findings
from edgekd_hardware.findings import Finding


def by_subject(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_a_laptop_in_a_container(tmp_path: Path) -> None:
    found = by_subject(machine_findings(2, boards.laptop(tmp_path)))

    assert found["CPU governor"].value == "powersave"
    assert "cpupower frequency-set -g performance" in found["CPU governor"].advice
    assert "intel_pstate/no_turbo" in found["turbo"].advice
    assert found["throttling"].value == "7 times since the start"
    assert found["CPU limit"].value == "1.5 of 2 cores by cgroup"
    assert {finding.state for finding in found.values()} == {"note"}


def test_a_steady_machine(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    boards.write(
        tmp_path,
        {
            f"{cpu}/cpufreq/policy0/scaling_governor": "performance\n",
            f"{cpu}/cpufreq/boost": "0\n",
            f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "0\n",
        },
    )
    assert {finding.state for finding in machine_findings(2, tmp_path)} == {"ok"}


def test_a_machine_that_shows_nothing(tmp_path: Path) -> None:
    (finding,) = clocks.findings(tmp_path)
    assert (finding.subject, finding.state) == ("clocks", "note")


def test_a_limit_that_does_not_bind_is_not_reported(tmp_path: Path) -> None:
    assert limits.findings(1, boards.laptop(tmp_path)) == ()


@pytest.mark.parametrize(("quota", "limit"), [("-1", None), ("50000", 0.5)])
def test_control_groups_version_1(tmp_path: Path, quota: str, limit: float | None) -> None:
    boards.write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": f"{quota}\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert limits.cpu_limit(tmp_path) == limit
    assert limits.memory_limit(tmp_path) is None


def test_the_smallest_of_nested_limits_counts(tmp_path: Path) -> None:
    boards.write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job/step\n",
            "sys/fs/cgroup/job/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/job/step/cpu.max": "max 100000\n",
        },
    )
    assert limits.cpu_limit(tmp_path) == 2.0


def test_memory(tmp_path: Path) -> None:
    pi = boards.raspberry_pi_5(tmp_path / "pi")
    assert memory.total_bytes(pi) == 8245248 * 1024
    assert memory.last_level_cache(pi) == 2 * 2**20
    laptop = boards.laptop(tmp_path / "laptop")
    assert memory.available_bytes(laptop) == 2**30, "what the container may use"
    assert memory.last_level_cache(laptop) is None


@pytest.mark.parametrize(
    ("bits", "state", "words"),
    [
        ("0", "ok", "none"),
        ("50000", "note", "since the start: under-voltage, throttled"),
        ("50005", "note", "now: under-voltage, throttled"),
        ("80008", "note", "now: soft temperature limit"),
    ],
)
def test_raspberry_pi(tmp_path: Path, bits: str, state: str, words: str) -> None:
    (finding,) = raspberry_pi.findings(boards.raspberry_pi_5(tmp_path, bits))
    assert finding.state == state
    assert words in finding.value
    assert ("power supply" in finding.advice) == ("under-voltage" in finding.value)


@pytest.mark.parametrize(("answer", "flags"), [("throttled=0x50005", 0x50005), ("error=1", None)])
def test_raspberry_pi_by_vcgencmd(tmp_path: Path, answer: str, flags: int | None) -> None:
    tool = "usr/bin/vcgencmd"
    boards.write(tmp_path, {tool: f"#!/bin/sh\n[ $1 = get_throttled ] && echo {answer}\n"})
    (tmp_path / tool).chmod(0o755)
    assert raspberry_pi.throttle_flags(tmp_path) == flags


def test_a_raspberry_pi_that_does_not_tell(tmp_path: Path) -> None:
    boards.write(tmp_path, {"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0"})
    (finding,) = raspberry_pi.findings(tmp_path)
    assert finding.state == "note"
    assert raspberry_pi.findings(boards.laptop(tmp_path / "laptop")) == ()
