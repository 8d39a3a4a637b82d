"""Which machines stand for a target: the runtime, the architecture and the instruction sets."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgekd.bench import machine
from edgekd.bench.machine import adds_in_16_bits, runs_here, why_not_here
from edgekd.device import DeviceProfile, load_profile

VNNI = frozenset(("avx2", "avx512_vnni"))
PLAIN = frozenset(("avx2",))


def profile(name: str = "cpu", **fields: object) -> DeviceProfile:
    return load_profile(name).model_copy(update=fields)


def test_the_profile_for_the_machine_at_hand_runs_on_it() -> None:
    assert runs_here(profile())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (profile("jetson"), "models for it run on tensorrt"),
        (profile("intel-npu", architecture=None), "models for it run with openvino"),
        (profile(architecture="riscv64"), "not riscv64"),
    ],
)
def test_what_another_machine_runs_is_not_timed_here(other: DeviceProfile, words: str) -> None:
    assert words in (why_not_here(other) or "")
    assert not runs_here(other)


@pytest.mark.parametrize(
    ("name", "flags", "reason"),
    [
        ("cpu-avx2", PLAIN, None),
        ("cpu-avx2", VNNI, "this processor has avx512_vnni, and the target is one without"),
        ("cpu-avx2", frozenset(), "this processor lacks avx2"),
        ("cpu-vnni", VNNI, None),
        ("cpu-vnni", frozenset(("avx2", "avx_vnni")), None),
        ("cpu-vnni", PLAIN, "this processor lacks avx512_vnni or avx_vnni"),
        ("cpu-amx", VNNI, "this processor lacks amx_tile, amx_int8, amx_bf16"),
        ("raspberry-pi-5", PLAIN, "this processor lacks asimddp"),
        ("raspberry-pi-4", frozenset(("asimddp",)), "this processor has asimddp"),
        ("cpu-vnni", None, "this machine does not tell which instruction sets"),
        ("cpu", None, None),
    ],
)
def test_instruction_sets_decide(
    monkeypatch: pytest.MonkeyPatch, name: str, flags: frozenset[str] | None, reason: str | None
) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags)
    found = why_not_here(profile(name, architecture=platform.machine()))
    assert found == reason if reason is None else (found or "").startswith(reason)


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("cpu", PLAIN, True),
        ("cpu", VNNI, False),
        ("cpu", frozenset(("avx2", "avx_vnni")), False),
        ("cpu", None, False),
        ("cpu-avx2", VNNI, True),
        ("cpu-vnni", PLAIN, False),
        ("cpu-amx", PLAIN, False),
        ("raspberry-pi-4", PLAIN, False),
        ("jetson", PLAIN, False),
    ],
)
def test_the_target_decides_how_int8_products_are_added(
    monkeypatch: pytest.MonkeyPatch, name: str, flags: frozenset[str] | None, expected: bool
) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert adds_in_16_bits(profile(name)) == expected


@pytest.mark.parametrize("key", ["flags", "Features"])
def test_linux_names_the_instruction_sets(tmp_path: Path, key: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{key}\t\t: fp asimd asimddp\n\nprocessor\t: 1\n")
    assert machine.cpu_flags(cpuinfo) == {"fp", "asimd", "asimddp"}
    assert machine.cpu_flags(tmp_path / "none") is None
