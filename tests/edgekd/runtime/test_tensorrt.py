"""Engines: what happens without a GPU, and on one (marked ``gpu``) all that ``load`` promises."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_entries import ENTRY
from small_bundles import convolutions, write_bundle

from benchmarks.threads import hammer
from edgekd.errors import BundleError, DataError
from edgekd.runtime import load
from edgekd.runtime.cuda import shared_cuda, why_no_gpu
from edgekd.runtime.engine_manifest import parse_engines
from edgekd.runtime.tensorrt import look, open_engine
from edgekd.spec import ModelSpec, TensorSpec

SPEC = ModelSpec((TensorSpec("x", "float32", (None, 3)),), (TensorSpec("y", "float32", (None,)),))
needs_no_gpu = pytest.mark.skipif(why_no_gpu() is None, reason="there is an NVIDIA GPU")


def entry(**change: Any) -> Any:
    (found,) = parse_engines(
        [{**ENTRY, **change}], ["model.engine", "model.onnx"], ["compressed"], ["x"]
    )
    return found


@needs_no_gpu
@pytest.mark.parametrize("binding", ["tensorrt", "tensorrt_rtx"])
def test_nothing_of_tensorrt_is_imported_without_a_driver(
    binding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{binding}.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for action in (lambda: look([binding]), lambda: open_engine(b"", entry(binding=binding), SPEC)):
        with pytest.raises(BundleError, match=r"no usable NVIDIA GPU"):
            action()
    assert binding not in sys.modules


RTX = """
import sys
from edgekd.errors import BundleError
from edgekd.runtime import tensorrt
from edgekd.runtime.engine_manifest import EngineEntry
entry = EngineEntry("e", "m", "o", "tensorrt_rtx", "1.7", ("8.6",), None, "p", False, "none", {})
try: {action}
except BundleError as error: print(error, "tensorrt_rtx" in sys.modules)
"""


@pytest.fixture
def run_rtx(run_python: Any) -> Any:
    """Run code with the real TensorRT-RTX in a process of its own."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip('needs TensorRT-RTX: pip install "edgekd[trt-check]"')

    def run(action: str) -> str:
        done = run_python(
            "-c", RTX.replace("{action}", action), PYTHONPATH=os.pathsep.join(sys.path)
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # TensorRT's own lines are kept, not printed
        return str(done.stdout)

    return run


@needs_no_gpu
def test_the_process_survives_a_binding_without_a_driver(run_rtx: Any) -> None:
    for action in ("tensorrt.look(['tensorrt_rtx'])", "tensorrt.open_engine(b'', entry, None)"):
        out = run_rtx(action)
        assert "no usable NVIDIA GPU" in out and out.endswith("False\n")


def test_what_tensorrt_does_not_take_is_said_in_its_words(run_rtx: Any) -> None:
    out = run_rtx("tensorrt.deserialize(b'no engine', entry)")
    assert out.startswith("TensorRT cannot open it: ")
    assert "Error Code" in out and len(out.splitlines()) == 1


def test_the_binding_has_what_is_used(run_rtx: Any) -> None:
    """Every attribute that the code asks of TensorRT's classes is there."""
    used = {
        "ICudaEngine": "num_io_tensors get_tensor_name get_tensor_location get_tensor_dtype "
        "get_tensor_shape get_tensor_mode get_tensor_profile_shape create_execution_context",
        "IExecutionContext": "set_input_shape get_tensor_shape set_tensor_address execute_async_v3",
        "Runtime": "deserialize_cuda_engine engine_host_code_allowed",
        "TensorLocation": "DEVICE",
        "TensorIOMode": "INPUT",
        "DataType": "FLOAT HALF INT8 INT32 INT64 UINT8 BOOL",
    }
    action = (
        "import tensorrt_rtx as t; print([(c, n) for c, names in "
        f"{used!r}.items() for n in names.split() if not hasattr(getattr(t, c), n)])"
    )
    assert run_rtx(action) == "[]\n"


def test_contexts_must_be_a_number_of_calls() -> None:
    with pytest.raises(BundleError, match="contexts must be 1 or more, not 0"):
        open_engine(b"", entry(), SPEC, 0)


# What needs a GPU.


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an engine of this machine for batches of 1 to 8, built by TensorRT itself."""
    reason = why_no_gpu()
    if reason is not None:
        pytest.skip(f"needs an NVIDIA GPU: {reason}")
    binding = next((n for n in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(n)), None)
    if binding is None:
        pytest.skip("needs TensorRT or TensorRT-RTX")
    onnx, spec = convolutions()
    shapes = {key: [n, 3, 8, 8] for key, n in (("min", 1), ("opt", 4), ("max", 8))}
    trt = importlib.import_module(binding)
    machine = shared_cuda().machine()
    found = {
        **ENTRY,
        "binding": binding,
        "version": trt.__version__,
        "compute_capabilities": [machine.compute_capability],
        "cuda": machine.cuda,
        "platform": machine.platform,
        "shapes": {"x": shapes},
    }
    files = {"model.onnx": onnx, "model.engine": engine_of(trt, onnx, shapes)}
    folder = tmp_path_factory.mktemp("engine") / "r"
    return write_bundle(folder, files, spec, "tensorrt", engines=[found])


def engine_of(trt: Any, onnx: bytes, shapes: dict[str, list[int]]) -> bytes:
    logger = trt.Logger(trt.Logger.ERROR)
    flags = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    builder = trt.Builder(logger)
    network = builder.create_network(0 if flags is None else 1 << int(flags))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(onnx), parser.get_error(0).desc()
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", *(tuple(shapes[key]) for key in ("min", "opt", "max")))
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))


def batch(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 3, 8, 8)).astype(np.float32)


@pytest.mark.gpu
def test_an_engine_gives_what_its_onnx_gives(built: Path) -> None:
    with load(built) as engine, load(built, runtime="onnxruntime") as onnx:
        assert engine.runtime == "tensorrt"
        assert "on TensorRT" in engine.describe()
        for rows in (1, 4, 8, 9, 30):  # the last two in parts
            x = batch(rows, rows)
            np.testing.assert_allclose(engine(x), onnx(x), atol=0.02 * np.abs(onnx(x)).max())
        with pytest.raises(DataError, match="a batch of 0"):
            engine(batch(0))


@pytest.mark.gpu
def test_threads_share_an_engine(built: Path) -> None:
    with load(built, contexts=3) as model:
        model.warmup()
        before = shared_cuda().free_bytes()
        found = hammer(model, threads=8, calls=1000)
        assert (found.calls, found.wrong) == (8000, 0)
        assert abs(before - shared_cuda().free_bytes()) < 32 << 20


@pytest.mark.gpu
@pytest.mark.slow
def test_threads_share_an_engine_for_long(built: Path) -> None:
    with load(built) as model:
        found = hammer(model, threads=8, calls=10_000)
    assert found.wrong == 0
    assert found.growth < 16 << 20


@pytest.mark.gpu
def test_closing_an_engine_gives_its_memory_back(built: Path) -> None:
    load(built).close()
    cuda = shared_cuda()
    cuda.make_current()
    before = cuda.free_bytes()
    for _ in range(5):
        model = load(built)
        ends: list[str] = []

        def work(model: Any = model, ends: list[str] = ends) -> None:
            try:
                while True:
                    model(batch(8))
            except BundleError as error:
                ends.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        model.warmup()
        model.close()
        for thread in threads:
            thread.join(30)
        assert ends == ["this model is closed; load the bundle again"] * 6
    assert before - cuda.free_bytes() < 32 << 20


@pytest.mark.gpu
def test_tensors_on_the_gpu_are_not_copied(built: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a PyTorch with CUDA")
    with load(built) as model:
        for rows in (4, 20):
            x = batch(rows)
            found = model(torch.from_numpy(x).cuda())
            assert found.__dlpack_device__() == (2, 0)
            tensor = torch.from_dlpack(found)
            assert tensor.data_ptr() == found.address
            np.testing.assert_array_equal(tensor.cpu().numpy(), model(x))
            np.testing.assert_array_equal(found.numpy(), model(x))
        with pytest.raises(DataError, match="does not lie in rows"):
            model(torch.zeros(4, 8, 8, 3).cuda().permute(0, 3, 1, 2))
        with pytest.raises(DataError, match="must be float32 on this engine, not float16"):
            model(torch.zeros(4, 3, 8, 8).half().cuda())


@pytest.mark.gpu
def test_an_engine_that_is_damaged_or_foreign_is_refused(built: Path) -> None:
    model = load(built)
    (there,) = model.manifest.engines
    with pytest.raises(BundleError, match="TensorRT cannot open it") as caught:
        open_engine(b"no engine" * 100, there, model.spec)
    assert "\n" not in str(caught.value)
    wrong = {"cuda": "99.0", "platform": f"other-{platform.machine()}"}
    data = {**ENTRY, **wrong, "binding": there.binding, "version": there.version}
    misfits = entry(**data).misfits(there.binding, there.version, shared_cuda().machine())
    assert len(misfits) >= 2
