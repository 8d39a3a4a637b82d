from pathlib import Path

import pytest
from edgekd_hardware import doctor, probe
from edgekd_hardware.doctor import installed_version, int8_finding, openvino_finding
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


def test_installed_version() -> None:
    assert installed_version("numpy")
    assert installed_version("no_such_package") is None


def test_a_missing_runtime_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda _module: None)
    found = {finding.subject: finding for finding in doctor.examine()}
    assert found["onnxruntime"].state == "missing"
    assert found["tensorrt"].state == "note"
    assert "edgekd[compress]" in found["compress extra"].advice
    assert found["openvino"].state == "note"
    assert 'pip install "edgekd[openvino]"' in found["openvino"].advice


@pytest.mark.parametrize(
    ("flags", "words"),
    [({"amx_bf16", "avx2"}, "1.0; bf16 with amx_bf16"), ({"avx2"}, "1.0; no bf16 here")],
)
def test_openvino_and_bf16(monkeypatch: pytest.MonkeyPatch, flags: set[str], words: str) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda _module: "1.0")
    finding = openvino_finding(Cpu("some", "x86_64", 2, frozenset(flags)))
    assert (finding.state, finding.value) == ("ok", words)
    unknown = openvino_finding(Cpu("some", "riscv64", 2, None))
    assert unknown.value == "1.0; bf16 unknown here"
