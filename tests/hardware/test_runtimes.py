"""Packages found on disk, and runtimes tried in processes of their own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from edgekd_hardware.doctor import examine
from edgekd_hardware.gpu import Driver
from edgekd_hardware.packages import installed_onnxruntimes, installed_version
from edgekd_hardware.probe import Cpu
from edgekd_hardware.runtimes import (
    double_finding,
    onnxruntime_findings,
    openvino_finding,
    tensorrt_finding,
    try_runtime,
)

NO_DRIVER = Driver(works=False, reason="no NVIDIA driver")
DRIVER = Driver(works=True, cuda="12.6")


def install(folder: Path, name: str, version: str) -> None:
    """Leave behind what pip does to say that a package is there."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, code: str = ""
) -> None:
    """Put a package on the path of this process and of those that it starts."""
    package = tmp_path / module
    package.mkdir()
    (package / "__init__.py").write_text(code)
    install(tmp_path, module, "10.3.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    importlib.invalidate_caches()


def test_installed_version() -> None:
    assert installed_version("numpy")
    assert installed_version("no_such_package") is None


def test_onnxruntime_works_here() -> None:
    (finding,) = onnxruntime_findings(NO_DRIVER)
    assert finding.state == "ok"
    assert finding.value == f"{installed_version('onnxruntime')} on the CPU"


def test_with_a_gpu_the_missing_providers_are_named() -> None:
    _, cuda, tensorrt = onnxruntime_findings(DRIVER)
    assert (cuda.subject, tensorrt.subject) == ("onnxruntime CUDA", "onnxruntime TensorRT")
    assert "onnxruntime-gpu" in cuda.advice


def test_two_builds_of_onnxruntime(tmp_path: Path) -> None:
    install(tmp_path, "onnxruntime", "1.31.1")
    assert double_finding(installed_onnxruntimes([str(tmp_path)])) == ()
    install(tmp_path, "onnxruntime_gpu", "1.30.0")
    install(tmp_path, "numpy", "2.0.0")

    (finding,) = double_finding(installed_onnxruntimes([str(tmp_path)]))

    assert finding.state == "missing"
    assert finding.value == "onnxruntime 1.31.1 and onnxruntime-gpu 1.30.0"
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in finding.advice
    assert finding.advice.endswith("pip install --no-deps onnxruntime-gpu")


@pytest.mark.parametrize(
    ("flags", "words"),
    [({"amx_bf16", "avx2"}, "bf16 with amx_bf16"), ({"avx2"}, "no bf16"), (None, "bf16 unknown")],
)
def test_openvino(flags: set[str] | None, words: str) -> None:
    pytest.importorskip("openvino")
    cpu = Cpu("some", "x86_64", 2, None if flags is None else frozenset(flags))
    finding = openvino_finding(cpu)
    assert finding.state == "ok"
    assert "on CPU" in finding.value
    assert words in finding.value


def test_tensorrt_is_not_touched_without_a_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched = tmp_path / "touched"
    code = f"open({str(touched)!r}, 'w').close()"
    importable(tmp_path, monkeypatch, "tensorrt", code)

    finding = tensorrt_finding("tensorrt", NO_DRIVER, jetson=False)

    assert (finding.state, finding.value) == ("note", "10.3.0, not tried: no NVIDIA driver")
    assert not touched.exists()
    assert isinstance(try_runtime("tensorrt"), str)
    assert touched.exists(), "trying it would have"


def test_a_tensorrt_that_ends_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importable(tmp_path, monkeypatch, "tensorrt", "import os; os.abort()")

    finding = tensorrt_finding("tensorrt", DRIVER, jetson=False)

    assert finding.state == "note"
    assert "10.3.0 does not work" in finding.value
    assert "CUDA up to 12.6" in finding.advice


@pytest.mark.parametrize(("jetson", "words"), [(True, "JetPack"), (False, "GPU")])
def test_no_tensorrt(jetson: bool, words: str) -> None:
    if installed_version("tensorrt"):
        pytest.skip("TensorRT is installed")
    assert words in tensorrt_finding("tensorrt", NO_DRIVER, jetson=jetson).advice


def test_nothing_is_imported_here() -> None:
    before = {"torch", "tensorrt", "tensorrt_rtx", "pynvml"} & set(sys.modules)
    examine()
    assert {"torch", "tensorrt", "tensorrt_rtx", "pynvml"} & set(sys.modules) == before
