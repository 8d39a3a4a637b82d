"""The profile of a machine, composed from recorded boards and rates."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import boards
import pytest
from edgekd_hardware.board_profile import compose, probe, slug, to_yaml
from edgekd_hardware.gpu import Gpu
from edgekd_hardware.jetson_fields import shipped_like
from edgekd_hardware.machine import Machine, find_machine
from edgekd_hardware.probe import Cpu
from edgekd_hardware.processor_fields import onnxruntime_opset
from edgekd_hardware.rates import Rates

from edgekd.device import DeviceProfile, SoftwareStack, load_profile
from edgekd.errors import ProfileError

TODAY = date(2026, 11, 22)
X86 = Cpu("Some(R) CPU @ 2.0GHz", "x86_64", 4, frozenset({"avx2", "avx512_vnni", "sse"}))
ARM = Cpu("", "aarch64", 4, frozenset({"asimd", "asimddp", "aes"}))
RATES = Rates(
    threads=2,
    runtime="onnxruntime 1.31.1 CPU",
    gmacs={"float32": 80.123, "int8": 300.0},
    spread={"float32": 0.01, "int8": 0.04},
    copy_gb_per_s=24.04,
    add_gb_per_s=14.0,
    array_bytes=2**26,
    cache_bytes=2**21,
    node_us=0.2199,
    load=0.3,
)


def jetson_profile(name: str, title: str, **fields: object) -> DeviceProfile:
    """Return a profile as they are shipped for Jetsons."""
    data = {
        "name": name,
        "title": title,
        "updated": TODAY,
        "runtime": "tensorrt",
        "opset": 17,
        "channel_multiple": 32,
        "layer_norm": "decomposed",
        "compute_capability": "8.7",
        "memory_gib": 8.0,
        "peak_gmacs": {"float16": 5000.0},
        "memory_gb_per_s": 68.0,
        "sources": {"peak_gmacs": "the data sheet"},
    }
    return DeviceProfile.model_validate({**data, **fields})


SHIPPED = (
    jetson_profile("nano-8", "Jetson Orin Nano 8GB with TensorRT"),
    jetson_profile("nano-4", "Jetson Orin Nano 4GB with TensorRT", memory_gib=4.0),
    jetson_profile("nano-super", "Jetson Orin Nano Super 8GB with TensorRT"),
    jetson_profile("nx", "Jetson Orin NX 8GB with TensorRT"),
    jetson_profile("old-nano", "Jetson Nano with TensorRT"),
)


def read_back(profile: DeviceProfile, tmp_path: Path) -> DeviceProfile:
    path = tmp_path / "board.yaml"
    path.write_text(to_yaml(profile))
    return load_profile(str(path))


def test_a_processor(tmp_path: Path) -> None:
    machine = find_machine(X86, "no NVIDIA driver", boards.laptop(tmp_path))
    profile = compose(machine, RATES, SHIPPED, today=TODAY)

    assert read_back(profile, tmp_path) == profile
    assert (profile.name, profile.title) == ("some-cpu-2-0ghz", "Some(R) CPU @ 2.0GHz")
    assert (profile.runtime, profile.architecture, profile.opset) == ("onnxruntime", "x86_64", 21)
    assert profile.updated == TODAY
    assert profile.cpu_flags == ("avx2", "avx512_vnni")
    assert profile.peak_gmacs == {"float32": 80.1, "int8": 300.0}
    assert (profile.memory_gb_per_s, profile.layer_overhead_us) == (24.0, 0.22)
    assert profile.memory_gib == 15.26
    assert "copy 24.0, add 14.0" in profile.sources["memory_gb_per_s"]
    for field in ("peak_gmacs", "memory_gb_per_s", "layer_overhead_us"):
        assert profile.sources[field].startswith("measured on 2026-11-22 by edgekd targets probe")
    unsourced = profile.model_fields_set - set(profile.sources)
    assert unsourced == {"name", "title", "updated", "runtime", "sources"}


def test_a_raspberry_pi(tmp_path: Path) -> None:
    machine = find_machine(ARM, "no NVIDIA driver", boards.raspberry_pi_5(tmp_path))
    profile = compose(machine, RATES, SHIPPED, today=TODAY, name="kitchen-pi")

    assert (profile.name, profile.title) == ("kitchen-pi", "Raspberry Pi 5 Model B Rev 1.0")
    assert (profile.architecture, profile.cpu_flags) == ("aarch64", ("asimd", "asimddp"))
    assert profile.runtime == "onnxruntime"


def test_a_jetson_takes_its_gpu_from_the_shipped_profile(tmp_path: Path) -> None:
    machine = find_machine(ARM, (), boards.orin_nano(tmp_path))
    profile = compose(machine, RATES, SHIPPED, today=TODAY)

    assert read_back(profile, tmp_path) == profile
    assert (profile.runtime, profile.opset, profile.channel_multiple) == ("tensorrt", 17, 32)
    assert profile.runtimes[-1] == "tensorrt"
    assert profile.peak_gmacs == {"float16": 5000.0}
    assert profile.sources["peak_gmacs"] == "edgekd's profile nano-super: the data sheet"
    assert profile.memory_gb_per_s == 68.0
    assert profile.memory_gib == 7.44, "what was found here, not the data sheet"
    assert profile.power_modes[2].name == "MAXN_SUPER"
    assert "JetPack 6.2, TensorRT 10.3.0.30; measured in power mode 25W" in profile.notes
    assert "The GPU was not measured" in profile.notes


def test_an_unknown_jetson_is_a_processor(tmp_path: Path) -> None:
    machine = find_machine(ARM, (), boards.orin_nano(tmp_path))
    profile = compose(machine, RATES, (), today=TODAY)

    assert profile.runtime == "onnxruntime"
    assert profile.peak_gmacs == {"float32": 80.1, "int8": 300.0}


@pytest.mark.parametrize(
    ("model", "gib", "name"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", 7.4, "nano-8"),
        ("NVIDIA Jetson Orin Nano Developer Kit", 3.4, "nano-4"),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", 7.4, "nano-super"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 15.0, "nx"),
        ("NVIDIA Jetson Nano Developer Kit", 3.9, "old-nano"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 30.0, None),
    ],
)
def test_the_kind_of_a_jetson(tmp_path: Path, model: str, gib: float, name: str | None) -> None:
    root = boards.write(tmp_path, {"proc/device-tree/model": f"{model}\0"})
    jetson = find_machine(ARM, (), root).jetson
    assert jetson is not None

    known = shipped_like(jetson, int(gib * 2**30), SHIPPED)

    assert (known.name if known else None) == name


def test_the_profile_with_the_jetpack_of_the_board_comes_first(tmp_path: Path) -> None:
    stacks = {
        "six": SoftwareStack(jetpack="6.2", tensorrt="10.3", cuda="12.6", python="3.10"),
        "seven": SoftwareStack(jetpack="7.2", tensorrt="10.16", cuda="13.2", python="3.12"),
    }
    title = "Jetson Orin Nano Super 8GB"
    profiles = [jetson_profile(name, title, software=(one,)) for name, one in stacks.items()]
    jetson = find_machine(ARM, (), boards.orin_nano(tmp_path)).jetson
    assert jetson is not None

    for order in (profiles, profiles[::-1]):
        known = shipped_like(jetson, None, order)
        assert known is not None
        assert known.name == "six"


def test_gpus_are_noted_and_not_measured() -> None:
    card = Gpu("NVIDIA L4", "580.1", 22.5, "8.9", 72.0)
    machine = Machine(X86, None, None, None, (card,))
    profile = compose(machine, RATES, (), today=TODAY)
    assert "GPU NVIDIA L4, 22.5 GiB, compute capability 8.9, driver 580.1; not measured." in (
        profile.notes
    )


def test_arrays_that_the_cache_holds_are_admitted() -> None:
    machine = Machine(X86, None, None, None, "no NVIDIA driver")
    small = Rates(**{**RATES.__dict__, "cache_bytes": 2**29})
    profile = compose(machine, small, (), today=TODAY)
    assert "NOT larger than" in profile.sources["memory_gb_per_s"]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Intel(R) Xeon(R) Processor", "intel-xeon-processor"),
        ("™", "this-machine"),
        ("A" * 80, "a" * 64),
    ],
)
def test_names(title: str, name: str) -> None:
    assert slug(title) == name


@pytest.mark.parametrize(
    ("version", "opset"), [("1.31.1", 21), ("1.20.0", 21), ("1.18.1", 20), ("1.16", 17), ("", 17)]
)
def test_opset_of_onnxruntime(version: str, opset: int) -> None:
    assert onnxruntime_opset(version) == opset


@pytest.mark.parametrize(
    ("options", "words"),
    [({"name": "My Board"}, "cannot name a profile"), ({"threads": 10_000}, "usable cores")],
)
def test_mistakes_are_found_before_anything_is_measured(options, words: str) -> None:
    with pytest.raises(ProfileError, match=words):
        probe(**options)
