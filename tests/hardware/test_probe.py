from pathlib import Path

import pytest
from edgekd_hardware import probe
from edgekd_hardware.doctor import int8_finding
from edgekd_hardware.probe import Cpu, probe_cpu

X86 = "model name\t: Some CPU @ 2.0GHz\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0b\n\n"


def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, machine: str) -> Cpu:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(probe.platform, "machine", lambda: machine)
    return probe_cpu(path)


def test_x86(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = read(tmp_path, monkeypatch, X86, "AMD64")
    assert cpu.model == "Some CPU @ 2.0GHz"
    assert cpu.architecture == "x86_64"
    assert cpu.int8_flags == ("avx512_vnni",)
    assert cpu.cores >= 1


def test_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(tmp_path, monkeypatch, ARM, "aarch64").int8_flags == ("asimddp",)


@pytest.mark.parametrize(("text", "machine"), [("", "x86_64"), (X86, "riscv64")])
def test_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, machine: str) -> None:
    cpu = read(tmp_path, monkeypatch, text, machine)
    assert cpu.int8_flags is None
    assert int8_finding(cpu).state == "note"


def test_no_cpuinfo(tmp_path: Path) -> None:
    assert probe_cpu(tmp_path / "none").flags is None


@pytest.mark.parametrize(
    ("flags", "state", "words"),
    [({"avx_vnni", "amx_int8"}, "ok", "pay: amx_int8, avx_vnni"), ({"avx2"}, "note", "no VNNI")],
)
def test_int8_pays(flags: set[str], state: str, words: str) -> None:
    finding = int8_finding(Cpu("some", "x86_64", 2, frozenset(flags)))
    assert (finding.state, finding.value) == (state, words)
