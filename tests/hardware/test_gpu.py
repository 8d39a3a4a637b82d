"""The CUDA driver, with a real library in its place: compiled C that answers as the driver does."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest
from edgekd_hardware.gpu import Driver, Gpu, driver, findings, gpus

CUDA = """
int cuInit(unsigned flags) {{ return {code}; }}
int cuDriverGetVersion(int *version) {{ *version = 12060; return 0; }}
int cuGetErrorString(int code, const char **text) {{ *text = "no CUDA-capable device"; return 0; }}
"""


def compiled(tmp_path: Path, source: str) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=source, text=True, check=True)
    return str(library)


def test_a_driver_that_starts(tmp_path: Path) -> None:
    assert driver(compiled(tmp_path, CUDA.format(code=0))) == Driver(works=True, cuda="12.6")


def test_a_driver_that_does_not_start(tmp_path: Path) -> None:
    found = driver(compiled(tmp_path, CUDA.format(code=100)))

    assert not found.works
    (finding,) = findings(found, "")
    assert finding.state == "note"
    assert "no CUDA-capable device" in finding.value
    assert finding.advice


def test_no_driver(tmp_path: Path) -> None:
    for library in ("libnone.so.1", compiled(tmp_path, "int other(void) { return 0; }")):
        found = driver(library)
        assert found == Driver(works=False, reason="no NVIDIA driver")
        (finding,) = findings(found, "")
        assert (finding.state, finding.advice) == ("note", "")


def test_nvml_without_a_driver() -> None:
    if driver().works:
        pytest.skip("there is a driver")
    reason = gpus()
    assert isinstance(reason, str)
    known = importlib.util.find_spec("pynvml") is not None
    assert ("NVML does not start" if known else "edgekd[gpu]") in reason


@pytest.mark.gpu
def test_nvml_with_a_gpu() -> None:
    pytest.importorskip("pynvml")
    if not driver().works:
        pytest.skip("needs an NVIDIA GPU")
    found = gpus()
    assert isinstance(found, tuple)
    assert all(gpu.memory_gib > 0 and float(gpu.compute_capability) >= 3 for gpu in found)


def test_every_gpu_is_named() -> None:
    cards = tuple(Gpu(f"NVIDIA L{n}", "580.1", 22.5, "8.9", 72.0) for n in (4, 40))

    found = findings(Driver(works=True, cuda="13.0"), cards)

    assert [finding.state for finding in found] == ["ok", "ok"]
    assert "NVIDIA L40, 22.5 GiB, compute capability 8.9" in found[1].value
    (unknown,) = findings(Driver(works=True, cuda="13.0"), 'not asked: pip install "edgekd[gpu]"')
    assert "edgekd[gpu]" in unknown.value
