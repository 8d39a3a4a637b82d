"""Reading a board's /sys from a tree of files, and its tools from what they printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from edgekd_hardware import board_state, board_tools, throttling
from edgekd_hardware.board_state import read_sample, read_state

JETPACK_5 = (
    "11-20-2026 14:02:31 RAM 2535/30536MB (lfb 6520x4MB) SWAP 0/15268MB (cached 0MB) "
    "CPU [12%@2188,0%@2188,1%@729,off,off,0%@729] EMC_FREQ 3%@2133 GR3D_FREQ 41%@[1300,1300] "
    "VIC_FREQ 729 APE 174 CV0@-256C CPU@48.5C Tboard@36C SOC2@45.218C Tdiode@37.75C GPU@46.093C "
    "tj@48.5C VDD_GPU_SOC 2399mW/2400mW VDD_CPU_CV 1199mW/1000mW VIN_SYS_5V0 3028mW/2999mW"
)
JETPACK_6 = (
    "11-20-2026 14:09:02 RAM 3021/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [3%@1510,0%@1510,0%@1510,0%@1510,off,off] GR3D_FREQ 0%@[624] NVDEC off NVJPG off "
    "VIC off OFA off APE 200 cpu@47.5C soc2@46.687C gpu@47.093C tj@48.437C "
    "VDD_IN 4853mW/4853mW VDD_CPU_GPU_CV 1000mW/1040mW VDD_SOC 1480mW/1480mW"
)
JETPACK_4 = (
    "RAM 1903/3964MB (lfb 2x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) "
    "CPU [25%@1479,18%@1479,off,off] EMC_FREQ 0% GR3D_FREQ 7% PLL@41C CPU@44.5C PMIC@100C GPU@42C "
    "AO@50C thermal@43.25C POM_5V_IN 2532/2532 POM_5V_GPU 80/80 POM_5V_CPU 564/564"
)


def test_tegrastats_of_three_releases() -> None:
    orin = board_tools.tegrastats(JETPACK_5)
    assert orin["cpu_mhz"] == [2188, 2188, 729, 729]
    assert (orin["gpu_mhz"], orin["memory_mhz"]) == (1300, 2133)
    assert orin["temperatures_c"]["tj"] == 48.5 and "CV0" not in orin["temperatures_c"]
    assert orin["power_mw"] == {"VDD_GPU_SOC": 2399, "VDD_CPU_CV": 1199, "VIN_SYS_5V0": 3028}

    nano = board_tools.tegrastats(JETPACK_6)
    assert (nano["cpu_mhz"], nano["gpu_mhz"]) == ([1510] * 4, 624)
    assert "memory_mhz" not in nano and nano["temperatures_c"]["soc2"] == 46.687
    assert nano["power_mw"] == {"VDD_IN": 4853, "VDD_CPU_GPU_CV": 1000, "VDD_SOC": 1480}

    old = board_tools.tegrastats(JETPACK_4)
    assert old["cpu_mhz"] == [1479, 1479] and "gpu_mhz" not in old
    assert old["temperatures_c"]["thermal"] == 43.25
    assert old["power_mw"] == {"POM_5V_IN": 2532, "POM_5V_GPU": 80, "POM_5V_CPU": 564}


@pytest.mark.parametrize("text", ["", "sh: 1: tegrastats: not found", "\n", "RAM"])
def test_other_text_tells_nothing(text: str) -> None:
    assert board_tools.tegrastats(text) == {} == board_tools.throttle_flags(text)
    assert board_tools.firmware_clock(text) is None and board_tools.power_mode(text) == ""


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN\n0\n", "MAXN"),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_15W_6CORE\n2\n", "MODE_15W_6CORE"),
        ("NV Fan Mode:quiet\nNV Power Mode: 25W\n1\n", "25W"),
    ],
)
def test_power_modes(text: str, mode: str) -> None:
    assert board_tools.power_mode(text) == mode


@pytest.mark.parametrize(
    ("text", "now", "since"),
    [
        ("throttled=0x0\n", [], []),
        ("80008\n", ["soft temperature limit"], ["soft temperature limit"]),
        ("throttled=0x50005\n", ["under-voltage", "throttled"], ["under-voltage", "throttled"]),
        ("throttled=0xe0008\n", ["soft temperature limit"],
         ["clock capped", "throttled", "soft temperature limit"]),
    ],
)  # fmt: skip
def test_flags_of_a_raspberry_pi(text: str, now: list[str], since: list[str]) -> None:
    assert board_tools.throttle_flags(text) == {"flags": now, "since_boot": since}


def test_clock_of_a_raspberry_pi() -> None:
    assert board_tools.firmware_clock("frequency(48)=1800404352\n") == 1800.4


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


CPU = "devices/system/cpu"
THERMAL = "class/thermal"


def test_a_tree_of_sys(tmp_path: Path) -> None:
    files = {
        f"{CPU}/cpu{n}/cpufreq/{name}": value
        for n in (0, 1, 10, 2)
        for name, value in (
            ("scaling_cur_freq", str(1_000_000 + n * 1000)),
            ("scaling_max_freq", "1800000"),
            ("scaling_governor", "performance" if n else "schedutil"),
        )
    }
    files |= {f"{CPU}/cpu{n}/thermal_throttle/core_throttle_count": str(n) for n in (0, 1)}
    files |= {f"{CPU}/cpufreq/boost": "1", f"{CPU}/online": "0-3"}
    for number, (kind, value) in enumerate(
        [("cpu-thermal", "61300"), ("gpu-thermal", "-256000"), ("cpu-thermal", "62000"), ("x", "")]
    ):
        files |= {f"{THERMAL}/thermal_zone{number}/type": kind}
        files |= {f"{THERMAL}/thermal_zone{number}/temp": value}
    cooling = [("pwm-fan", 3), ("cpufreq-cpu0", 2), ("TCC Offset", 10), ("cpu-throttle-alert", 0)]
    for number, (kind, level) in enumerate(cooling):
        files |= {f"{THERMAL}/cooling_device{number}/type": kind}
        files |= {f"{THERMAL}/cooling_device{number}/cur_state": str(level)}
    files |= {"class/hwmon/hwmon4/oc1_event_cnt": "7", "class/hwmon/hwmon4/name": "soctherm_oc"}
    files |= {"devices/platform/soc/soc:firmware/get_throttled": "20002"}

    assert read_sample(tree(tmp_path, files)) == {
        "clocks_mhz": [1000, 1001, 1002, 1010],
        "max_clocks_mhz": [1800] * 4,
        "governors": ["performance", "schedutil"],
        "temperatures_c": {"cpu-thermal": 61.3, "cpu-thermal 2": 62.0},
        "cooling": {"cpufreq-cpu0": 2, "cpu-throttle-alert": 0},
        "counters": {"cpu0 core": 0, "cpu1 core": 1, "oc1_event_cnt": 7},
        "firmware": {"flags": ["clock capped"], "since_boot": ["clock capped"]},
    }


def test_a_machine_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_state, "_search_path", lambda: str(tmp_path))
    assert read_state(tmp_path) == {}


TOOLS = {
    "nvpmodel": "printf 'NV Power Mode: MAXN\\n0\\n'",
    "tegrastats": f"while :; do echo '{JETPACK_6}'; sleep 0.05; done",
    "vcgencmd": 'case "$1" in get_throttled) echo throttled=0x50000;; *) exit 1;; esac',
}


def test_asks_the_tools_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in TOOLS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    state = read_state(tmp_path)

    assert state["power_mode"] == "MAXN"
    assert state["tegrastats"] == board_tools.tegrastats(JETPACK_6)
    assert state["firmware"] == {"flags": [], "since_boot": ["under-voltage", "throttled"]}


def test_runs_as_a_module(run_python: Any) -> None:
    found = json.loads(run_python("-m", "edgekd_hardware.board_state").stdout)
    assert set(found) == {"machine", "state"} and found["machine"]["usable_cores"] >= 1


CALM = {"cooling": {"cpu": 0}, "counters": {"cpu0 core": 5}, "max_clocks_mhz": [1500, 1500]}


@pytest.mark.parametrize(
    ("before", "during", "after", "words"),
    [
        ({}, {}, {"cooling": {"cpu": 2}}, ["cpu was at level 2"]),
        ({}, {"cooling": {"cpu": 1}}, {}, ["cpu was at level 1"]),
        ({}, {}, {"counters": {"cpu0 core": 8, "new": 3}}, ["cpu0 core counted 3 times"]),
        ({}, {"max_clocks_mhz": [1200, 1000]}, {},
         ["the clock's limit fell from 1500 to 1200 MHz"]),
        ({"power_mode": "MAXN"}, {}, {"power_mode": "15W"},
         ["the power mode changed from MAXN to 15W"]),
        ({"firmware": {"flags": [], "since_boot": ["throttled"]}}, {},
         {"firmware": {"flags": [], "since_boot": ["throttled"]}}, []),
        ({"firmware": {"flags": [], "since_boot": ["throttled"]}}, {},
         {"firmware": {"flags": ["under-voltage"], "since_boot": ["throttled", "under-voltage"]}},
         ["the firmware reports under-voltage"]),
        ({"firmware": {"flags": ["throttled"], "since_boot": []}}, {}, {},
         ["the firmware reports throttled"]),
        ({}, {"firmware": {"flags": ["clock capped"], "since_boot": []}}, {},
         ["the firmware reports clock capped"]),
        ({"clocks_mhz": [600]}, {"clocks_mhz": [1500]}, {"clocks_mhz": [1000]}, []),
        ({}, {}, {}, []),
    ],
)  # fmt: skip
def test_what_counts_as_slowed_down(
    before: dict[str, Any], during: dict[str, Any], after: dict[str, Any], words: list[str]
) -> None:
    states = [{**CALM, **state} for state in (before, during, after)]
    assert throttling.reasons(states[0], states[1:2], states[2]) == words


def test_nothing_known_is_not_called_calm() -> None:
    empty = {"device": "ssh://b", "before": {}, "during": [], "after": {}, "throttling": []}
    assert "nothing there tells of throttling" in throttling.describe({"processor": "p"}, empty)
    known = {**empty, "after": {"counters": {"cpu0 core": 0}}}
    assert "no throttling seen" in throttling.describe({"processor": "p"}, known)


def test_the_hottest_sensor() -> None:
    states = [
        {"temperatures_c": {"a": 50.0}},
        {"temperatures_c": {"a": 49.0}, "tegrastats": {"temperatures_c": {"tj": 51.0}}},
    ]
    assert throttling.hottest(states) == ("tj", 51.0)
    assert throttling.hottest([{}]) is None
