"""What ``load`` opens: the order of the choice, and that nothing is replaced silently."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_entries import ENTRY, ORIN, parse

from edgekd.errors import BundleError
from edgekd.runtime import load
from edgekd.runtime.choose import Wanted, choose, fitting_engine
from edgekd.runtime.cuda import why_no_gpu
from edgekd.runtime.manifest import Deployment, Manifest, parse_manifest

TENSORRT = {"name": "jetson-orin-nano", "runtime": "tensorrt"}
X = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)

needs_no_gpu = pytest.mark.skipif(why_no_gpu() is None, reason="there is an NVIDIA GPU")


@pytest.fixture
def jetson(bundle: Path, rewrite: Any) -> Path:
    """A bundle for TensorRT without an engine."""
    rewrite({"target": TENSORRT})
    return bundle


@pytest.fixture
def with_engine(jetson: Path, rewrite: Any) -> Path:
    """A bundle for TensorRT with an engine of the compressed model (which is none, in truth)."""
    files = json.loads((jetson / "manifest.json").read_text())["files"]
    shapes = {"x": {k: [n, 3, 2, 2] for k, n in (("min", 1), ("opt", 8), ("max", 8))}}
    entry = {**ENTRY, "file": "report.html", "shapes": shapes}
    assert "report.html" in files  # the choice reads no file
    rewrite({"engines": [entry]})
    return jetson


def chosen(folder: Path, **wanted: Any) -> Any:
    data = json.loads((folder / "manifest.json").read_text())
    return choose(folder, parse_manifest(data), Wanted(**wanted))


def test_the_engine_that_fits_is_taken_the_fastest_kind_first() -> None:
    exact = parse(ENTRY)
    portable = replace(exact, file="any.engine", version_compatible=True)
    asked: list[list[str]] = []

    def look(names: Any) -> Any:
        asked.append(list(names))
        return ORIN, {"tensorrt": "10.3.0"}

    assert fitting_engine([portable, exact], look) is exact
    assert asked == [["tensorrt"]]
    newer = lambda names: (ORIN, {"tensorrt": "10.7.0"})  # noqa: E731
    assert fitting_engine([exact, portable], newer) is portable


def test_where_none_fits_every_one_says_why() -> None:
    exact = parse(ENTRY)
    other = replace(exact, file="rtx.engine", binding="tensorrt_rtx", version="1.4.0")
    with pytest.raises(BundleError) as caught:
        fitting_engine([exact, other], lambda names: (ORIN, {"tensorrt": "8.5.2"}))
    assert str(caught.value) == (
        "model.engine does not run here: it was built by TensorRT 10.3.0, here is 8.5.2; "
        "rtx.engine does not run here: it is an engine of tensorrt_rtx, here is tensorrt 8.5.2"
    )


def test_a_machine_is_not_asked_where_there_is_no_engine() -> None:
    with pytest.raises(BundleError, match="has no TensorRT engine of this model"):
        fitting_engine([], lambda names: pytest.fail("asked"))


def test_a_bundle_without_engines_opens_its_onnx(jetson: Path) -> None:
    model = load(jetson)
    assert model.runtime == "onnxruntime"
    assert model.describe() == "the compressed model on ONNX Runtime"
    assert model(X).shape == (4, 5)


def test_what_is_named_is_taken(with_engine: Path) -> None:
    for wanted in ({"runtime": "onnxruntime"}, {"providers": ["CPUExecutionProvider"]}):
        choice = chosen(with_engine, **wanted)
        assert (choice.what, choice.engine) == (Deployment(), None)
    assert chosen(with_engine, model="baseline").what == Deployment("baseline")  # it has no engine
    cpu = load(with_engine, "baseline", providers=["CPUExecutionProvider"])
    assert cpu.describe() == "the baseline model on ONNX Runtime (CPUExecutionProvider)"


@needs_no_gpu
@pytest.mark.parametrize("wanted", [{}, {"model": "compressed"}, {"runtime": "tensorrt"}])
def test_an_engine_is_never_replaced_silently(with_engine: Path, wanted: dict[str, str]) -> None:
    with pytest.raises(BundleError) as caught:
        load(with_engine, **wanted)
    line = str(caught.value)
    assert "no usable NVIDIA GPU" in line and "\n" not in line
    assert f"edgekd build {with_engine} --target jetson-orin-nano" in line
    assert not {"tensorrt", "tensorrt_rtx"} & set(sys.modules)  # not touched without a driver


@needs_no_gpu
def test_the_fallback_has_to_be_asked_for_and_says_why(with_engine: Path) -> None:
    model = load(with_engine, fallback="onnx")
    assert model.runtime == "onnxruntime"
    assert "instead of TensorRT: there is no usable NVIDIA GPU" in model.describe()
    np.testing.assert_array_equal(model(X), load(with_engine, runtime="onnxruntime")(X))


def test_a_bundle_without_engines_cannot_run_on_tensorrt(jetson: Path) -> None:
    with pytest.raises(BundleError, match=r"no TensorRT engine.*edgekd build .* --target jetson"):
        load(jetson, runtime="tensorrt")
    model = load(jetson, runtime="tensorrt", fallback="onnx")
    assert "instead of TensorRT: the bundle has no TensorRT engine" in model.describe()


def test_deployment_on_tensorrt_is_a_promise_too(jetson: Path, rewrite: Any) -> None:
    rewrite({"deployment": {"model": "compressed", "runtime": "tensorrt"}})
    with pytest.raises(BundleError, match="no TensorRT engine"):
        load(jetson)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"fallback": "cpu"}, "no fallback 'cpu', only \"onnx\""),
        ({"runtime": "tensorrt", "precision": "f32"}, "has its precisions built in"),
        ({"runtime": "tensorrt", "providers": ["CPUExecutionProvider"]}, "leave both out"),
    ],
)
def test_what_makes_no_sense_is_refused(
    with_engine: Path, wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        load(with_engine, **wanted)


def test_a_bundle_for_the_cpu_has_no_engines_to_build(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"no TensorRT engine.*; it is for cpu, so compress for"):
        load(bundle, runtime="tensorrt")


def test_cuda_is_not_replaced_by_the_cpu(bundle: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BundleError, match=r"no CUDAExecutionProvider: .* onnxruntime-gpu"):
        load(bundle, runtime="onnxruntime-cuda")
    with pytest.raises(BundleError, match="say one of the two"):
        load(bundle, runtime="onnxruntime-cuda", providers=["CPUExecutionProvider"])


@pytest.mark.gpu
def test_cuda_computes_what_the_cpu_does(bundle: Path) -> None:
    import onnxruntime

    reason = why_no_gpu()
    if reason is not None:
        pytest.skip(f"needs an NVIDIA GPU: {reason}")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    model = load(bundle, runtime="onnxruntime-cuda")
    assert model.describe() == "the compressed model on ONNX Runtime with CUDA"
    np.testing.assert_allclose(model(X), load(bundle)(X), rtol=1e-2, atol=1e-2)  # TF32


def test_a_provider_that_onnxruntime_drops_is_an_error() -> None:
    from edgekd.runtime.onnxruntime import _check_used

    _check_used(["CPUExecutionProvider"], ["CPUExecutionProvider"])
    asked = [("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"]
    with pytest.raises(BundleError, match=r"cannot use CUDAExecutionProvider.*cuDNN"):
        _check_used(asked, ["CPUExecutionProvider"])


def test_exits_give_way_to_an_engine(with_engine: Path) -> None:
    """``load`` of a bundle with both opens the engine: segments have none."""
    from edgekd.runtime.choose import takes_exits

    data = json.loads((with_engine / "manifest.json").read_text())
    manifest = replace(parse_manifest(data), cascade=Leaving())  # type: ignore[arg-type]
    assert not takes_exits(manifest, Wanted())
    assert takes_exits(without_engines(manifest), Wanted())
    assert not takes_exits(without_engines(manifest), Wanted("compressed"))


class Leaving:
    leaves_by_default = True


def without_engines(manifest: Manifest) -> Manifest:
    return replace(manifest, engines=())


def test_a_board_without_onnxruntime_imports_the_runtime(run_python: Any, bundle: Path) -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from edgekd.runtime import load\n"
        "from edgekd.errors import BundleError\n"
        f"try: load({str(bundle)!r})\n"
        "except BundleError as error: print(error)"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "ONNX Runtime cannot be imported" in done.stdout
    assert "pip install onnxruntime" in done.stdout
