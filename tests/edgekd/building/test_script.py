"""``build.sh``, run by real shells; trtexec is a stand-in that writes down what it is told."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd.building.plan import build_file, to_json
from edgekd.building.script import build_script
from edgekd.building.trtexec import options
from edgekd.device import load_profile
from edgekd.engine.plan import plan_for
from edgekd.errors import BundleError
from edgekd.spec import ModelSpec, TensorSpec

TOOLS = ("dirname", "grep", "sed", "rm", "mv", "cat")
JETPACK = Path("/usr/src/tensorrt/bin/trtexec")
TRTEXEC = """#!/bin/sh
echo '&&&& RUNNING TensorRT.trtexec {banner} # trtexec'
[ "$1" = --help ] && exit 0
printf '%s\\0' "$@" > '{folder}/told'
for option in "$@"; do
    case $option in --saveEngine=*) {write} ;; esac
done
exit {code}
"""
SHELLS = [name for name in ("dash", "bash", "busybox") if shutil.which(name)]


@dataclass(frozen=True)
class Device:
    """A folder with a bundle, and what is on the PATH there."""

    folder: Path

    def bundle(self, name: str = "x", target: str = "jetson") -> Path:
        bundle = self.folder / "my bundle"
        bundle.mkdir(exist_ok=True)
        data, spec = plans(name, target)
        (bundle / "build.json").write_bytes(to_json(data))
        (bundle / "build.sh").write_bytes(build_script(data, spec))
        return bundle

    def program(self, name: str, text: str) -> Path:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def trtexec(
        self, banner: str, write: str = 'echo engine > "${option#*=}"', code: int = 0
    ) -> Path:
        text = TRTEXEC.format(banner=banner, folder=self.folder, write=write, code=code)
        return self.program("trtexec", text)

    def run(self, bundle: Path, *arguments: str, shell: str = "sh", **environment: str) -> Any:
        program = [str(shutil.which(shell)), *(["sh"] if shell == "busybox" else [])]
        return subprocess.run(
            [*program, str(bundle / "build.sh"), *arguments],
            env={"PATH": str(self.folder / "bin"), **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @property
    def told(self) -> list[str]:
        """What trtexec was told."""
        return (self.folder / "told").read_bytes().decode().split("\0")[:-1]


@cache
def profile(target: str) -> dict[str, Any]:
    return load_profile(target).model_dump(mode="json")


def plans(name: str, target: str) -> tuple[dict[str, Any], ModelSpec]:
    spec = ModelSpec((TensorSpec(name, "float32", (None, 3)),), ())
    manifest = {
        "target": profile(target),
        "models": {"compressed": "model.onnx"},
        "spec": spec.to_dict(),
        "kernels": {"operations": {"QuantizeLinear": 1}},
        "stages": [],
        "float16_model": {"file": "model_fp16.onnx"},
    }
    return build_file(manifest), spec


@pytest.fixture
def device(tmp_path: Path) -> Device:
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return Device(tmp_path)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("banner", "version", "change", "onnx"),
    [
        ("[TensorRT v8502]", "8.5", (8, 5), "model.onnx"),
        ("[TensorRT v8601] [b6]", "8.6", (8, 6), "model.onnx"),
        ("[TensorRT v100300] [b16]", "10.3", (10, 0), "model_fp16.onnx"),
        ("[TensorRT v101602]", "10.16", (10, 0), "model_fp16.onnx"),
        ("[TensorRT v110401]", "11.4", (11, 0), "model_fp16.onnx"),
        ("[TensorRT v11.1.0.106] [b48]", "11.1", (11, 0), "model_fp16.onnx"),
    ],
)
def test_trtexec_is_told_what_the_plan_says(
    device: Device, shell: str, banner: str, version: str, change: tuple[int, int], onnx: str
) -> None:
    device.trtexec(banner)
    bundle = device.bundle()
    done = device.run(bundle, shell=shell)
    assert done.returncode == 0, done.stderr
    plan = plan_for(plans("x", "jetson")[0], version)
    model, engine, cache, *rest = device.told
    assert model == f"--onnx={bundle}/{onnx}" == f"--onnx={bundle}/{plan.onnx}"
    assert engine.startswith(f"--saveEngine={bundle}/model.engine.")
    assert cache == f"--timingCacheFile={bundle}/timing.cache"
    assert rest == [*options(plan, change, ["x"]), f"--exportLayerInfo={bundle}/layers.json"]
    assert f"TensorRT {version} builds {onnx}" in done.stderr
    assert (bundle / "model.engine").read_text() == "engine\n"
    assert sorted(path.name for path in bundle.iterdir()) == [
        "build.json",
        "build.sh",
        "model.engine",
    ]


def test_the_oldest_board(device: Device) -> None:
    device.trtexec("[TensorRT v8201]")
    assert device.run(device.bundle(target="jetson-nano")).returncode == 0
    assert "--workspace=1024" in device.told and "--buildOnly" in device.told
    assert not [option for option in device.told if "Layer" in option]


@pytest.mark.parametrize(
    ("banner", "words"),
    [
        ("[TensorRT v8401]", "no model for TensorRT 8.4, only for 8.5 to below 10.0, 10.0 and"),
        ("", "does not say which TensorRT it is of"),
        ("[TensorRT v7]", "does not say which TensorRT it is of"),
        ("[TensorRT v8..5]", "does not say which TensorRT it is of"),
    ],
)
def test_refuses_other_versions(device: Device, banner: str, words: str) -> None:
    device.trtexec(banner)
    bundle = device.bundle()
    refused(device.run(bundle), words)
    assert not (device.folder / "told").exists() and not (bundle / "model.engine").exists()


def refused(done: Any, words: str) -> None:
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("build.sh: ")


@pytest.mark.skipif(JETPACK.exists(), reason="this machine has JetPack's trtexec")
def test_refuses_without_anything_that_builds(device: Device) -> None:
    refused(device.run(device.bundle()), "there is no edgekd and no trtexec here: on a Jetson")


def test_a_named_trtexec_goes_before_all(device: Device) -> None:
    device.program("edgekd", "#!/bin/sh\nexit 9\n")
    named = device.trtexec("[TensorRT v100300]").rename(device.folder / "my trtexec")
    bundle = device.bundle()
    assert device.run(bundle, TRTEXEC=str(named)).returncode == 0
    refused(device.run(bundle, TRTEXEC="/nowhere/trtexec"), "is no program that can be run")


def test_edgekd_builds_where_it_is(device: Device) -> None:
    device.trtexec("[TensorRT v100300]")
    device.program("edgekd", "#!/bin/sh\nprintf '%s|' \"$@\"\nexit 3\n")
    bundle = device.bundle()
    done = device.run(bundle, "--max-batch", "4")
    assert (done.returncode, done.stdout) == (3, f"build|{bundle}|--max-batch|4|")


def test_options_without_edgekd_are_refused(device: Device) -> None:
    device.trtexec("[TensorRT v100300]")
    refused(device.run(device.bundle(), "--max-batch", "4"), "options are for edgekd")


@pytest.mark.parametrize(("write", "code"), [('echo half > "${option#*=}"', 1), (":", 0)])
def test_a_failed_build_leaves_the_engine_that_was_there(
    device: Device, write: str, code: int
) -> None:
    device.trtexec("[TensorRT v100300]", write, code)
    bundle = device.bundle()
    (bundle / "model.engine").write_text("before")
    done = device.run(bundle)
    assert done.returncode == 1 and "failed; what it says is above" in done.stderr
    assert (bundle / "model.engine").read_text() == "before"
    assert not list(bundle.glob("*.partial"))


def test_an_engine_of_edgekd_is_not_replaced(device: Device) -> None:
    device.trtexec("[TensorRT v100300]")
    bundle = device.bundle()
    (bundle / "manifest.json").write_text('{"files": {"model.onnx": {}}}')
    assert device.run(bundle).returncode == 0
    (bundle / "manifest.json").write_text('{"files": {"model.engine": {}}}')
    refused(device.run(bundle), "has a model.engine that edgekd built")


HOSTILE = st.text(st.sampled_from("'\"`$(){};&|<>\\\n\t *?~#!=,:ax1-é"), min_size=1, max_size=12)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(HOSTILE | st.sampled_from(["$(touch pwned)", "';touch pwned;'", "`touch pwned`", "a:0"]))
def test_no_name_of_an_input_is_run(device: Device, name: str) -> None:
    device.trtexec("[TensorRT v100300]")
    bundle = device.bundle(name)
    done = device.run(bundle)
    plan = plan_for(plans(name, "jetson")[0], "10.3")
    try:
        expected = options(plan, (10, 0), [name])
    except BundleError:
        refused(done, "trtexec cannot be told what this model needs: install edgekd")
    else:
        assert done.returncode == 0 and device.told[3:-1] == expected
    assert not list(device.folder.rglob("pwned"))


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
@pytest.mark.parametrize("name", ["x", "a:0", "$(x)"])
def test_shellcheck_finds_nothing(device: Device, name: str) -> None:
    script = device.bundle(name) / "build.sh"
    done = subprocess.run(
        ["shellcheck", str(script)], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stdout
