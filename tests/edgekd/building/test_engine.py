"""Putting engines into a bundle, by real builds of TensorRT-RTX where no GPU is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engines import manifest_data, write_bundle
from hypothesis import given
from hypothesis import strategies as st

from edgekd.bench.place import Ended
from edgekd.bench.runner import Here
from edgekd.building.engine import Building, build_engine
from edgekd.building.plan import build_file
from edgekd.building.reference import reference_answers
from edgekd.building.wishes import Wishes
from edgekd.engine.plan import BuildPlan, plan_for
from edgekd.errors import BundleError, DataError
from edgekd.progress import Silent
from edgekd.runtime.bundle import read_manifest, verify
from edgekd.runtime.cuda import why_no_gpu
from edgekd.spec import ModelSpec

SPEC = ModelSpec.from_dict(manifest_data()["spec"])
PLAN = plan_for(build_file(manifest_data()), "11.0")
BATCH = st.integers(1, 300)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "b")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def build_for(bundle: Path, *capabilities: str, **more: Any) -> Building:
    pytest.importorskip(
        "tensorrt_rtx",
        reason="needs TensorRT-RTX: pip install 'edgekd[trt-check]'",
        exc_type=ImportError,
    )
    if why_no_gpu() is None:
        pytest.skip("this machine has a GPU: tests/edgekd/engine/test_on_gpu.py")
    return build_engine(bundle, wishes=Wishes(compute_capabilities=capabilities), **more)


def test_an_engine_is_added_and_all_else_stays(bundle: Path) -> None:
    before = content(bundle)
    result = build_for(bundle, "8.6")
    assert result.passed and result.bundle == bundle.resolve()
    assert result.notes == ("built, not run: no GPU here",)
    manifest = read_manifest(bundle)
    verify(bundle, manifest)
    after = content(bundle)
    assert set(after) == {*before, "model.engine"}
    assert {n: after[n] for n in before if n != "manifest.json"} == {
        n: before[n] for n in before if n != "manifest.json"
    }
    old, new = json.loads(before["manifest.json"]), json.loads(after["manifest.json"])
    assert {key for key in new if old.get(key) != new[key]} == {"engines", "files"}
    (entry,) = manifest.engines
    assert (entry.file, entry.binding, entry.compute_capabilities) == (
        "model.engine",
        "tensorrt_rtx",
        ("8.6",),
    )
    assert entry.cuda is None and entry.shapes["x"].largest == (8, 4, 8, 8)
    assert new["engines"][0]["verification"] is None and new["engines"][0]["latency"] is None


def test_the_same_gpu_is_replaced_and_another_one_added(bundle: Path) -> None:
    first = build_for(bundle, "8.6")
    build_for(bundle, "8.9")
    again = build_for(bundle, "8.6")
    engines = read_manifest(bundle).engines
    assert [entry.compute_capabilities for entry in engines] == [("8.9",), ("8.6",)]
    assert len({entry.file for entry in engines}) == 2
    assert again.entry["file"] == first.entry["file"] == "model.engine"
    verify(bundle, read_manifest(bundle))
    assert len([name for name in content(bundle) if name.endswith(".engine")]) == 2


def test_out_leaves_the_bundle_alone(bundle: Path, tmp_path: Path) -> None:
    before = content(bundle)
    result = build_for(bundle, "8.6", out=tmp_path / "new")
    assert content(bundle) == before
    assert result.bundle == (tmp_path / "new").resolve()
    assert (tmp_path / "new" / "model.onnx").read_bytes() == before["model.onnx"]
    with pytest.raises(BundleError, match="already holds a bundle"):
        build_for(bundle, "8.6", out=tmp_path / "new")


def test_an_older_bundle_without_a_plan_is_built_too(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "old", plan=False)
    assert build_for(bundle, "8.6").passed
    assert "build.json" not in content(bundle)


def test_a_signature_goes_with_its_manifest_and_is_told(bundle: Path) -> None:
    (bundle / "manifest.sig").write_text("a signature")
    result = build_for(bundle, "8.6")
    assert not (bundle / "manifest.sig").exists()
    assert any("manifest.sig" in note for note in result.notes)


def test_data_that_is_not_used_is_told(bundle: Path) -> None:
    assert any(
        "some.npz was not used" in n for n in build_for(bundle, "8.6", data="some.npz").notes
    )


def test_a_refused_build_leaves_the_bundle_alone(bundle: Path) -> None:
    before = content(bundle)
    with pytest.raises(BundleError, match=r"not for 9\.9"):
        build_for(bundle, "9.9")
    with pytest.raises(BundleError, match=r"not for the target's 8\.7.*sh build\.sh"):
        build_for(bundle)
    assert content(bundle) == before


class Answers(Here):
    """This machine, where a process with a GPU seems to have built, and found out ``facts``."""

    def __init__(self, folder: Path, **facts: Any) -> None:
        super().__init__(folder)
        self._facts, self.job = facts, {}

    def run(self, module: str, job: Mapping[str, Any], timeout_s: float) -> Ended:
        self.job = dict(job)
        for kind, path in job["write"].items():
            Path(path).write_bytes(b"{}" if kind == "layers" else kind.encode())
        plan = job["build"]["variants"][-1]["plan"]
        shapes = plan["shapes"]
        own = {"model": plan["model"], "onnx": plan["onnx"], "binding": "tensorrt"}
        own |= {"version": "10.3.0", "compute_capabilities": ["8.7"], "cuda": "12.6"}
        own |= {"platform": "linux-aarch64", "version_compatible": False, "dla_core": None}
        answer = {"engine": {**own, "hardware_compatible": "none", "shapes": shapes}}
        facts = {"gpu": "Orin", "build": {}, "layers": None, "latency": None, "not_run": None}
        return Ended(0, json.dumps({**answer, **facts, "verification": None, **self._facts}), "")


def test_a_wrong_engine_is_not_kept(bundle: Path, tmp_path: Path) -> None:
    before = content(bundle)
    place = Answers(tmp_path, verification={"passed": False})
    result = build_engine(bundle, place=place)
    assert not result.passed and result.bundle is None and result.entry["file"] is None
    assert content(bundle) == before
    assert result.to_dict()["engine"]["verification"] == {"passed": False}


def test_timing_cache_and_layers_are_pinned_and_used_again(bundle: Path, tmp_path: Path) -> None:
    place = Answers(tmp_path, verification={"passed": True}, layers={"count": 1})
    build_engine(bundle, place=place)
    assert place.job["timing_cache"] is None and place.job["reference"]["kind"] == "random"
    manifest = read_manifest(bundle)
    assert {"model.engine", "model.timing_cache", "model.layers.json"} <= set(manifest.files)
    (entry,) = manifest.data["engines"]
    assert (entry["timing_cache"], entry["layers_file"]) == (
        "model.timing_cache",
        "model.layers.json",
    )
    build_engine(bundle, place=place)
    assert place.job["timing_cache"] is not None
    assert len(read_manifest(bundle).engines) == 1


@given(BATCH, BATCH)
def test_batches_that_are_wished_are_built(most: int, best: int) -> None:
    wishes = Wishes(max_batch=most, opt_batch=best)
    if best > most:
        with pytest.raises(BundleError, match="is larger than the largest"):
            wishes.apply(PLAN, SPEC)
        return
    shapes = wishes.apply(PLAN, SPEC).shapes["x"]
    assert (shapes.smallest[0], shapes.best[0], shapes.largest[0]) == (1, best, most)
    assert {s[1:] for s in (shapes.smallest, shapes.best, shapes.largest)} == {(4, 8, 8)}
    assert BuildPlan.from_dict(wishes.apply(PLAN, SPEC).to_dict()) == wishes.apply(PLAN, SPEC)


@given(BATCH)
def test_one_size_of_batch_alone_is_enough(size: int) -> None:
    assert Wishes(max_batch=size).apply(PLAN, SPEC).shapes["x"].best[0] == 1
    shapes = Wishes(opt_batch=size).apply(PLAN, SPEC).shapes["x"]
    assert (shapes.best[0], shapes.largest[0]) == (size, max(8, size))


def test_no_wishes_change_nothing_and_others_only_theirs() -> None:
    assert Wishes().apply(PLAN, SPEC) == PLAN
    wishes = Wishes(
        dla_core=0,
        version_compatible=True,
        hardware_compatible="ampere_plus",
        workspace_bytes=5,
        compute_capabilities=("8.6",),
    )
    assert wishes.apply(PLAN, SPEC) == replace(
        PLAN,
        dla_core=0,
        version_compatible=True,
        hardware_compatible="ampere_plus",
        workspace_bytes=5,
        compute_capabilities=("8.6",),
    )


def test_only_bundles_for_tensorrt_are_built(tmp_path: Path) -> None:
    target = {"name": "cpu", "runtime": "onnxruntime"}
    bundle = write_bundle(tmp_path / "cpu")
    data = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**data, "target": target}))
    with pytest.raises(BundleError, match="the bundle is for cpu, which has no TensorRT"):
        build_engine(bundle)


@pytest.mark.parametrize("changed", [{"onnx": "lost.onnx"}, {"model": "nobody"}])
def test_a_plan_of_what_is_not_there_is_refused(tmp_path: Path, changed: dict[str, str]) -> None:
    bundle = write_bundle(tmp_path / "b", plan=False)
    build = build_file(manifest_data())
    for variant in build["variants"]:
        variant["plan"].update(changed)
    from edgekd.export.bundle import write_bundle as rewrite

    files: dict[str, bytes | Path] = {
        name: data for name, data in content(bundle).items() if name != "manifest.json"
    }
    files["build.json"] = json.dumps(build).encode()
    rewrite(tmp_path / "c", files, manifest_data(), overwrite=False)
    with pytest.raises(BundleError, match="not in the bundle"):
        build_engine(tmp_path / "c")


def test_the_reference_is_the_models_own_answer(bundle: Path, tmp_path: Path) -> None:
    import numpy as np
    import onnxruntime as ort

    manifest = read_manifest(bundle)
    noise = reference_answers(bundle, manifest, "compressed", None, Silent())
    assert (noise.kind, len(noise.inputs[0])) == ("random", 64)
    session = ort.InferenceSession((bundle / "model.onnx").read_bytes())
    np.testing.assert_allclose(
        noise.outputs[0], session.run(None, {"x": noise.inputs[0]})[0], atol=0.1
    )
    x = np.random.default_rng(0).normal(size=(90, 4, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(90) % 4)
    real = reference_answers(bundle, manifest, "compressed", str(tmp_path / "data.npz"), Silent())
    assert real.kind == "validation" and len(real.inputs[0]) == len(real.outputs[0]) > 0
    with pytest.raises(DataError):
        reference_answers(bundle, manifest, "compressed", str(tmp_path / "no.npz"), Silent())
