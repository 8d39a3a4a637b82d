"""When ``compress`` ends with an engine; that it does is for a machine with a GPU."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

import pytest
from engines import write_bundle

from edgekd.building.target_here import build_if_here, is_target_here
from edgekd.device import DeviceProfile, load_profile
from edgekd.progress import Silent
from edgekd.runtime.bundle import read_manifest
from edgekd.runtime.cuda import shared_cuda, why_no_gpu

REASON = why_no_gpu()
NEEDS_ALL = pytest.mark.skipif(
    REASON is not None or find_spec("tensorrt") is None,
    reason=f"needs TensorRT and an NVIDIA GPU: {REASON or 'no tensorrt'}",
)


def test_a_machine_without_its_gpu_is_no_jetson(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    before = (bundle / "manifest.json").read_bytes()
    for name in ("cpu", "jetson"):
        profile = load_profile(name)
        here = REASON is None and is_target_here(profile)
        assert here or build_if_here(bundle, profile, None, Silent()) == ()
        assert here or (bundle / "manifest.json").read_bytes() == before
    assert not is_target_here(load_profile("cpu"))


def this_machine(**changed: str) -> DeviceProfile:
    own = {
        "compute_capability": shared_cuda().machine().compute_capability,
        "architecture": platform.machine().lower(),
    }
    return load_profile("jetson").model_copy(update={**own, **changed})


@pytest.mark.gpu
@NEEDS_ALL
def test_the_target_itself_gets_an_engine(tmp_path: Path) -> None:
    assert is_target_here(this_machine())
    assert not is_target_here(this_machine(compute_capability="1.0"))
    assert not is_target_here(this_machine(architecture="riscv64"))
    bundle = write_bundle(tmp_path / "b")
    assert build_if_here(bundle, this_machine(), None, Silent()) == ()
    assert len(read_manifest(bundle).engines) == 1
